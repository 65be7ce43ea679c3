"""Figures of modelled GPUs, against those that drivers report and data sheets state."""

import pytest

from testbed.core.gpus import ACCELERATORS, DEVICES, modelled_gpu
from testbed.workers.gpu.figures import FORMATS, figures_of

GIB = 2**30
# What torch.cuda.get_device_properties reports on the devices themselves, in GiB.
REPORTED = {"A100": 79.15, "H100": 79.11, "V100": 31.73, "H200": 139.8}


@pytest.mark.parametrize("name", REPORTED)
def test_memory_is_that_of_the_driver(name: str) -> None:
    figures = figures_of(modelled_gpu(name), 1)
    # one factor for all kinds: real ones differ by 0.4 %
    assert figures.memory_bytes / GIB == pytest.approx(REPORTED[name], rel=0.004)
    assert figures.usable_bytes < figures.memory_bytes


@pytest.mark.parametrize("name", DEVICES)
def test_rates_are_below_the_peaks(name: str) -> None:
    """Formats that a data sheet leaves out have the rate of the nearest one."""
    figures = figures_of(modelled_gpu(name), 1)
    rates = dict(zip(FORMATS, figures.flops_per_ns, strict=True))
    for number_format, tflops in ACCELERATORS[name].tflops.items():
        if number_format in rates:
            assert rates[number_format] * 1e9 == pytest.approx(0.73 * tflops * 1e12)

    assert 0 < rates["float64"] < rates["float32"] <= rates["tf32"] <= rates["float16"]
    assert rates["float16"] <= rates["float8"]
    assert figures.bytes_per_ns * 1e9 < ACCELERATORS[name].memory_bytes_per_s
