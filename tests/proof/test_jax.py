"""examples/jax_psum.py with JAX as it is, if it is installed: `pip install jax`, tried with
0.10.2.
"""

import importlib.util
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import testbed

SCRIPT = Path(testbed.__file__).parent.parent / "examples/jax_psum.py"
TOPOLOGY = """
datacenters: {west: {nic: {delay: 0 ms}}, east: {nic: {delay: 0 ms}}}
wan: [{between: [west, east], rate: 1 Gbit/s, delay: 10 ms}]
"""
FRAME = 1514 / 1448  # of a full packet: what goes over the wire, and its data


@pytest.mark.proof
def test_sums_take_what_the_network_takes(
    need: Callable[[object, str], None],
    command: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """gloo's ring between two: half of the data each way, twice, after a notice each time: four
    trips of 10 ms.
    """
    found = importlib.util.find_spec("jax")
    need(found, "the Python package jax")
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    out, place = tmp_path / "run", Path(found.origin).parent.parent  # type: ignore[union-attr, arg-type]
    words = ["--readable", place, "--env", f"PYTHONPATH={place}", "--out", out]
    command("run", tmp_path / "pair.yaml", *words, "--", "python3", SCRIPT)
    assert json.loads((out / "status.json").read_text())["faithful"]
    for rank in range(2):
        said = re.findall(
            r"psum of (\d+) B: ([\d.]+) ms", (out / f"logs/rank-{rank}.log").read_text()
        )
        took_ms = {int(size): float(ms) for size, ms in said}
        assert took_ms == {
            size: pytest.approx(40 + 8e3 * size * FRAME / 1e9, rel=0.01) for size in (4096, 1 << 20)
        }
