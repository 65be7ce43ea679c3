"""The same job on the host's clock: it runs, and says whether the CPU was the limit. How long
operations take at most is not tested.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.support.runs import Command, Folder, all_reduce

pytestmark = pytest.mark.alone
CHANGING = """
datacenters:
  west: {hosts: 1, nic: {delay: 0 ms}}
  east: {hosts: 1, nic: {delay: 0 ms}}
wan:
  - {between: [west, east], rate: 1 Gbit/s, delay: 10 ms}
events:
  - {at: 1 s, links: west-east, delay: 50 ms}
"""
WAITING = """
import time
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(4))
print("waiting", flush=True)
while True:
    time.sleep(0.1)
"""
WALL_LIMIT_S = 20


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


def test_links_change_on_the_real_clock(command: Command, tmp_path: Path) -> None:
    """An all-reduce takes at least four trips: of 10 ms, and of 50 ms after the change."""
    (tmp_path / "changing.yaml").write_text(CHANGING)
    out = tmp_path / "run"
    job = all_reduce("4 KiB", iterations=40)
    words = ["--clock", "real", "--isolation", "process", "--out", out]
    command("run", tmp_path / "changing.yaml", "collectives", *job, *words)
    folder = Folder(out)
    (change,) = map(json.loads, (out / "raw/changes.jsonl").read_text().splitlines())
    assert change["due_ns"] == folder.began_ns + 10**9
    assert change["time_ns"] >= change["due_ns"]
    ops = folder.ops.filter(rank=0, op="all_reduce").with_columns(
        ms=(pl.col("end_ns") - pl.col("start_ns")) / 1e6
    )
    before = ops.filter(pl.col("end_ns") < change["due_ns"])["ms"]
    after = ops.filter(pl.col("start_ns") > change["time_ns"] + 10**8)["ms"]
    assert len(before) >= 5
    assert len(after) >= 5
    assert 40 <= min(before) < 200
    assert min(after) >= 200


def test_wall_limit(command: Command, pair: Path, tmp_path: Path) -> None:
    """Ranks that wait for ever are ended; the reason says in which line, and results are kept."""
    script = tmp_path / "script.py"
    script.write_text(WAITING)
    out = tmp_path / "run"
    words = ["--clock", "real", "--isolation", "process", "--wall-limit", WALL_LIMIT_S]
    done = command("run", pair, *words, "--out", out, "--", script, status=1)
    folder = Folder(out)
    reason = folder.status["reason"]
    assert f"the run has taken {WALL_LIMIT_S} s of wall time (--wall-limit)" in reason
    assert f"{script}:10 in <module>" in reason
    assert f"{WALL_LIMIT_S} s of wall time" in done.stderr
    assert (folder.status["state"], folder.ops.height) == ("failed", 2)
