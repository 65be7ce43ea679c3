"""Kinds of GPUs from files: values with units, what `like` adds, and errors with their lines."""

from pathlib import Path

import pytest

from testbed.core.errors import InputError
from testbed.core.gpus import DEVICES, ModelledGpu, modelled_gpu
from testbed.core.units import UnitError
from testbed.spec.gpu_file import load_gpu
from testbed.workers.gpu.figures import CONTEXT_BYTES, PRODUCT_EFFICIENCY, figures_of

WHOLE = """
peak: {float32: 60 TFLOP/s, bfloat16: 0.9 PFLOP/s}
memory: 96 GiB
memory_rate: 2.4 TB/s
peer_rate: 3600 Gbit/s
host_rate: 50 GB/s
kernel_time: 2 us
capability: [9, 0]
source: a table
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_values_of_a_file(tmp_path: Path) -> None:
    gpu = load_gpu(written(tmp_path, WHOLE))
    assert gpu.name == "mine"
    assert gpu.peak_flops == 0.9e15
    figures = figures_of(gpu, 2)
    assert figures.memory_bytes == 96 * 2**30
    assert figures.usable_bytes == 96 * 2**30 - CONTEXT_BYTES
    assert figures.bytes_per_ns == pytest.approx(2400 * 0.92)
    assert figures.flops_per_ns[3] == pytest.approx(0.9e6 * PRODUCT_EFFICIENCY)
    assert figures.local_bytes_per_ns == pytest.approx(450 * 0.8)
    assert (gpu.device.host_bytes_per_s, gpu.device.kernel_ns) == (50e9, 2000)


def test_like_has_what_is_left_out(tmp_path: Path) -> None:
    gpu = load_gpu(written(tmp_path, "name: H100-96\nlike: H100\nmemory: 96 GiB\n"))
    known = modelled_gpu("H100")
    assert gpu.name == "H100-96"
    assert gpu.accelerator.tflops == known.accelerator.tflops
    assert gpu.device.capability == known.device.capability
    assert gpu.device.reported_bytes == 96 * 2**30


@pytest.mark.parametrize("number_format", ["bfloat16", "float16"])
def test_a_peak_of_half_precision_is_that_of_kernels(tmp_path: Path, number_format: str) -> None:
    """Whichever of both formats a file names, and although `like` has peaks of both."""
    gpu = load_gpu(written(tmp_path, f"like: H100\npeak: {{{number_format}: 835 TFLOP/s}}\n"))
    assert gpu.peak_flops == 835e12
    assert figures_of(gpu, 1).flops_per_ns[3] == pytest.approx(835e3 * PRODUCT_EFFICIENCY)


@pytest.mark.parametrize("name", DEVICES)
def test_settings_read_back(name: str) -> None:
    gpu = load_gpu(name)
    assert ModelledGpu.of_settings(name, gpu.settings()) == gpu
    assert gpu.device.source
    assert gpu.peak_flops > 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("peak: {bfloat16: 900}", ["mine.yaml:1", "peak.bfloat16", "has no unit"]),
        ("like: H100\npeak: {bfloat16: 0 TFLOP/s}", ["mine.yaml:2", "must be greater than 0"]),
        ("like: H100\npeak: {int8: 900 TFLOP/s}", ["mine.yaml:2", "int8"]),
        ("like: H1000", ["mine.yaml:1", "like", "unknown kind of GPU 'H1000'", "H100"]),
        ("like: H100\nmemory: 80", ["mine.yaml:2", "memory", "has no unit"]),
        ("like: H100\nmemry: 80 GB", ["mine.yaml:2", "unknown key 'memry'", "memory"]),
        ("name: x\nmemory: 8 GB", ["peak", "memory_rate", "peer_rate", "required key is missing"]),
    ],
)
def test_errors_name_the_line_and_the_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_gpu(written(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_unknown_names_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="unknown kind of GPU 'H10'"):
        load_gpu("H10")
    with pytest.raises(InputError, match="cannot read the file"):
        load_gpu(str(tmp_path / "none.yaml"))
