"""examples/ray_sites.py with Ray as it is, if it is installed (`make setup`), tried with 2.60."""

import importlib.util
import re
from pathlib import Path

import pytest

import testbed
from tests.support.runs import PAIR, Command, Folder, Need

SCRIPT = Path(testbed.__file__).parent.parent / "examples/ray_sites.py"
FRAME = 1514 / 1448  # of a full packet: what goes over the wire, and its data
TRIP_MS, MIB = 10, 2**20


@pytest.mark.proof
def test_ray_across_two_hosts(need: Need, command: Command, tmp_path: Path) -> None:
    """gloo in Ray's actors takes four trips, as without Ray, and is recorded under their ranks.

    A large object is asked for and then sent, after Ray has looked for it: at least two trips and
    the time of its bytes, at most the trips of three questions. A small one came with the reply.
    """
    need(importlib.util.find_spec("ray"), "the Python package ray")
    pair = tmp_path / "pair.yaml"
    pair.write_text(PAIR)
    out = tmp_path / "run"
    words = ["--isolation", "process", "--memory", "2 GiB", "--guest-memory", "6 GiB"]
    command("run", pair, *words, "--out", out, "--", "python3", SCRIPT, timeout_s=900)
    folder = Folder(out)
    assert folder.status["faithful"], folder.status["warnings"]
    text = (out / "logs/rank-0.log").read_text()
    took_ms: dict[tuple[str, int], float] = {}
    for what, size, ms in re.findall(r"^(object|all-reduce) of (\d+) B: ([\d.]+) ms", text, re.M):
        took_ms[what, int(size)] = float(ms)

    for size in (4096, MIB):
        expected_ms = 4 * TRIP_MS + 8e3 * size * FRAME / 1e9
        assert took_ms["all-reduce", size] == pytest.approx(expected_ms, rel=0.01)
    bytes_ms = 8e3 * MIB * FRAME / 1e9
    assert 2 * TRIP_MS + bytes_ms <= took_ms["object", MIB] <= 6 * TRIP_MS + bytes_ms
    assert took_ms["object", 4096] < 1

    reduced = folder.ops.filter(op="all_reduce")
    assert reduced.group_by("rank").len().sort("rank").rows() == [(0, 8), (1, 8)]
