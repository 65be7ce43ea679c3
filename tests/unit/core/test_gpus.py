"""The accelerators, compared with each other and with the page that lists them."""

from __future__ import annotations

from testbed.core.gpus import ACCELERATORS, DEVICES, FORMATS, GB, SOURCE_PAGES, peak_flops
from tests.support.shared import PROJECT


def test_peaks_grow_as_numbers_shrink() -> None:
    for name, accelerator in ACCELERATORS.items():
        peaks = [accelerator.tflops[form] for form in FORMATS if form in accelerator.tflops]
        assert peaks == sorted(peaks), name
        assert accelerator.training_format in accelerator.tflops


def test_tensor_peaks_double_with_half_the_bits() -> None:
    for name, accelerator in ACCELERATORS.items():
        tflops = accelerator.tflops
        for wide, narrow in (("tf32", "bfloat16"), ("bfloat16", "float8"), ("float8", "float4")):
            if wide in tflops and narrow in tflops:
                ratio = tflops[narrow] / tflops[wide]  # type: ignore[index]
                assert abs(ratio - 2) < 0.05, (name, wide, narrow)  # published figures are rounded


def test_unknown_names_and_formats_have_no_peak() -> None:
    assert peak_flops("H100") == 989e12
    assert peak_flops("V100") == 125e12
    assert peak_flops("H300") is None
    assert peak_flops("A100", "float8") is None


def _linked_source(name: str) -> str:
    source = ACCELERATORS[name].source
    return f"[{source}]({SOURCE_PAGES[name]})" if name in SOURCE_PAGES else source


def test_the_page_lists_all() -> None:
    lines = (PROJECT / "docs" / "training.md").read_text().splitlines()
    for name, accelerator in ACCELERATORS.items():
        peak = accelerator.tflops[accelerator.training_format]
        float8 = accelerator.tflops.get("float8")
        cells = [
            f"`{name}`",
            f"{peak:g}",
            "-" if float8 is None else f"{float8:g}",
            f"{accelerator.memory_bytes // GB}",
            f"{accelerator.memory_bytes_per_s / GB / 1000:g}",
            _linked_source(name),
        ]
        assert f"| {' | '.join(cells)} |" in lines


def test_the_page_of_modelled_gpus_lists_all_devices() -> None:
    lines = (PROJECT / "docs" / "gpus.md").read_text().splitlines()
    for name, device in DEVICES.items():
        accelerator = ACCELERATORS[name]
        cells = [
            f"`{name}`",
            f"{accelerator.tflops[accelerator.training_format]:g}",
            f"{accelerator.memory_bytes // GB}",
            f"{accelerator.memory_bytes_per_s / GB / 1000:g}",
            f"{device.peer_bytes_per_s / GB:g}",
            f"{_linked_source(name)}; {device.source}",
        ]
        assert f"| {' | '.join(cells)} |" in lines
