"""The same job on the host's clock: it runs, and says whether the CPU was the limit. Its times are
not tested.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import Command, Folder, all_reduce

pytestmark = pytest.mark.alone


def test_a_run_that_the_cpu_limits_says_so(command: Command, pair: Path, tmp_path: Path) -> None:
    """64 MB through a path that is faster than the CPU, while other processes want every CPU."""
    job = all_reduce("64 MB", iterations=3)
    out = tmp_path / "run"
    words = [sys.executable, "-c", "while True: pass"]
    rivals = [subprocess.Popen(words) for _cpu in os.sched_getaffinity(0)]
    try:
        fast = [
            "--set",
            "topology.wan.west-east.rate=100 Gbit/s",
            "--set",
            "topology.wan.west-east.delay=20 us",
        ]
        command(
            "run",
            pair,
            "collectives",
            *job,
            *fast,
            "--clock",
            "real",
            "--isolation",
            "process",
            "--out",
            out,
        )
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
    status = Folder(out).status
    assert status["state"] == "completed"
    assert not status["faithful"]
    assert any("--clock virtual" in warning["message"] for warning in status["warnings"])


def test_real_clock(command: Command, pair: Path, tmp_path: Path) -> None:
    job = all_reduce("4 KiB, 64 KiB", iterations=5)
    out = tmp_path / "run"
    command(
        "run", pair, "collectives", *job, "--clock", "real", "--isolation", "process", "--out", out
    )
    folder = Folder(out)
    status = folder.status
    assert status["state"] == "completed"
    assert isinstance(status["faithful"], bool)
    assert bool(status["warnings"]) != status["faithful"]  # what is not faithful says why
    assert [row["wrong"] for row in folder.summary["collectives"]] == [0, 0]
    assert folder.json("plan.json")["clock"] == "real"
