"""examples/torchft_sites.py: torchft goes on with the datacenters that are left, and takes lost
ones back.
"""

import importlib.util
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import testbed
from tests.support.runs import Command, Folder, Need

SCRIPT = Path(testbed.__file__).parent.parent / "examples/torchft_sites.py"
STEPS, CRASH_S, BACK_S, TIMEOUT_S, TRIP_S, COMPUTE_S = 50, 2, 6, 3, 0.01, 0.1
SITES = """
datacenters: {a: {hosts: 1}, b: {hosts: 1}, c: {hosts: 1}}
wan: [{mesh: [a, b, c], rate: 1 Gbit/s, delay: 10 ms, queue: 200 ms}]
tcp: {offload: "on"}
events:
  - {at: 2 s, duration: 4 s, hosts: c, crash: CRASH}
"""
LINE = re.compile(r"([\d.]+) step (\d+) (\w+), (\d) sites")


class Step(NamedTuple):
    """A step as rank 0 prints it: when it ended, in Unix s."""

    end_s: float
    number: int
    fate: str
    sites: int


def steps_of(log: Path) -> list[Step]:
    return [
        Step(float(end), int(n), fate, int(sites))
        for end, n, fate, sites in LINE.findall(log.read_text())
    ]


@pytest.mark.parametrize("crash", ["ranks", pytest.param("host", marks=pytest.mark.proof)])
def test_a_datacenter_fails_and_comes_back(
    crash: str, need: Need, command: Command, tmp_path: Path
) -> None:
    """Killed ranks are noticed a trip later, in the same step; a silent host when the operation's
    timeout is over.
    """
    need(importlib.util.find_spec("torchft"), "the Python package torchft")
    (tmp_path / "sites.yaml").write_text(SITES.replace("CRASH", crash))
    words = ["run", tmp_path / "sites.yaml", "--isolation", "process", "--out", tmp_path / "run"]
    command(*words, "--", SCRIPT, "--steps", STEPS, "--timeout", TIMEOUT_S)
    folder = Folder(tmp_path / "run")
    assert folder.status["faithful"], folder.status["warnings"]
    assert folder.summary["problems"] == []
    logs = [folder.path / f"logs/rank-{rank}.log" for rank in range(3)]
    first_s = folder.began_ns / 1e9

    steps = steps_of(logs[0])
    (dropped,) = [index for index, step in enumerate(steps) if step.fate == "dropped"]
    again = steps[dropped].number  # it is done once more
    assert [step.number for step in steps] == [*range(again + 1), *range(again, STEPS)]
    step_s = steps[dropped - 1].end_s - steps[dropped - 2].end_s
    waiting_s = TRIP_S if crash == "ranks" else TIMEOUT_S
    noticed_s = steps[dropped].end_s - first_s - CRASH_S
    began_before_s = (
        step_s if crash == "host" else 0
    )  # the operation whose time is over may have begun before the crash
    assert waiting_s - began_before_s <= noticed_s <= waiting_s + step_s + 2 * TRIP_S

    rejoined = next(step for step in steps[dropped + 2 :] if step.sites == 3)
    assert rejoined.end_s > first_s + BACK_S
    lengths = [
        later.end_s - step.end_s
        for step, later in pairwise(steps)
        if step.sites == later.sites == 3 and later.fate == "done"
    ]
    assert min(lengths) > COMPUTE_S + 4 * TRIP_S  # four steps of a ring of three
    whole = lengths[-3:]
    assert max(whole) == pytest.approx(min(whole), abs=0.002)  # times are printed in ms

    sums: set[str] = set()
    for log in logs:
        for line in log.read_text().splitlines():
            if line.endswith("the sum of all parameters"):
                sums.add(line)
    assert len(sums) == 1
    assert "got the state of another datacenter" in logs[2].read_text().split("testbed: rank 2")[-1]
