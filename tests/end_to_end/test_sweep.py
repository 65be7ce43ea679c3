"""Sweeps of tiny points in real guests: points that fail, resume, a kill, a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.support.runs import PAIR, Command, Need, all_reduce

LONGEST_S = 120
EXPERIMENT = """
topology: pair.yaml
workload: collectives
settings:
  workload.ops: [all_reduce]
  workload.sizes: [4 KiB]
  workload.iterations: 1
  workload.warmup: 0
  run.isolation: process
sweep:
  grid:
    topology.wan.west-east.delay: [5 ms, 10 ms, 20 ms]
  name: "{delay}"
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "pair.yaml").write_text(PAIR)
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    return path


def points(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of sweep.parquet by the point's name."""
    return {
        row["point"]: row for row in pl.read_parquet(out / "sweep.parquet").iter_rows(named=True)
    }


def started(path: Path) -> int:
    """Give when a point was begun: the time at which its run folder got its first file."""
    return (path / "spec.yaml").stat().st_mtime_ns


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {LONGEST_S} s"
        time.sleep(0.02)


def test_failed_point_and_resume(command: Command, experiment: Path, tmp_path: Path) -> None:
    """A host may use 160 MiB: enough to reduce 4 KiB, not 256 MB."""
    out = tmp_path / "out"
    text = experiment.read_text().replace(
        "  run.isolation", "  run.memory: 160 MiB\n  run.isolation"
    )
    text = text.replace("  workload.sizes: [4 KiB]\n", "").partition("sweep:")[0]
    delays = "topology.wan.west-east.delay: [20 ms, 5 ms, 10 ms]"
    sizes = "workload.sizes: [[256 MB], [4 KiB], [4 KiB]]"
    experiment.write_text(f"{text}sweep: {{zip: {{{delays}, {sizes}}}, name: '{{delay}}'}}\n")
    done = command("sweep", experiment, "--out", out, "--jobs", 2, status=1)
    assert "1 of 3 points failed; the first is 20ms" in done.stderr
    rows = points(out)
    assert {name: row["state"] for name, row in rows.items()} == {
        "20ms": "failed",
        "5ms": "completed",
        "10ms": "completed",
    }
    assert "--memory" in rows["20ms"]["reason"]
    for name in ("5ms", "10ms"):  # gloo: four messages, one after the other
        assert rows[name]["time_us"] == pytest.approx(
            4 * 1000 * int(name.removesuffix("ms")), rel=0.1
        )
    times = {path: started(path) for path in (out / "points").iterdir()}
    assert len(times) == 2

    short = ["--set", "experiment.sweep.where=delay < 20 ms", "--out", out]
    assert "2 points, 0 to do" in command("sweep", experiment, *short, "--dry-run").stdout
    command("sweep", experiment, *short)
    assert {path: started(path) for path in (out / "points").iterdir()} == times
    assert (out / "sweep.html").read_text().count("/report.html") == 2
    asked = command(
        "sweep", "query", out, "select max(time_us) / min(time_us) as r from points", "-f", "csv"
    ).stdout
    assert float(asked.split()[1]) == pytest.approx(2, rel=0.1)


def test_killed_sweep_resumes(
    experiment: Path, tmp_path: Path, command: Command, command_environment: dict[str, str]
) -> None:
    """Points of 100 operations: none ends between the look that finds it and the kill."""
    out = tmp_path / "out"
    experiment.write_text(experiment.read_text().replace("iterations: 1", "iterations: 100"))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "testbed",
            "sweep",
            str(experiment),
            "--out",
            str(out),
            "--jobs",
            "1",
        ],
        env=command_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        wait_for(lambda: (out / "lock").exists() and (out / "lock").read_text(), "the sweep")
        refused = command("sweep", experiment, "--out", out, status=2)
        assert f"another sweep is using {out} (process {process.pid} of " in refused.stderr
        wait_for(
            lambda: (out / "points").is_dir() and any((out / "points").iterdir()), "the first point"
        )
        wait_for(lambda: list(out.glob("running/*/10ms*/raw/events.jsonl")), "the second guest")
        # The point's process and its guest, as if memory had run out.
        for pid in processes_of_sweep(out / "running"):
            os.kill(int(pid), signal.SIGKILL)
        wait_for(lambda: list(out.glob("running/*/20ms*/raw/events.jsonl")), "the third guest")
        (killed,) = (out / "failed").iterdir()
        assert (
            "was killed (SIGKILL); this machine may have run out of memory"
            in (killed / "point.json").read_text()
        )
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_of_sweep(out), "the end of what the sweep had started")
    (first,) = (out / "points").iterdir()
    before = started(first)
    assert json.loads((first / "status.json").read_text())["state"] == "completed"

    command("sweep", experiment, "--out", out, "--jobs", 1)
    assert [row["state"] for row in points(out).values()] == ["completed"] * 3
    assert started(first) == before
    assert list((out / "running").iterdir()) == []
    check_against_a_fresh_guest(command, experiment, next((out / "points").glob("20ms*")), tmp_path)


def test_signal_while_guests_end(
    experiment: Path, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    """Two guests are idle after the last point; the signal comes while the sweep waits for one."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "testbed",
            "sweep",
            str(experiment),
            "--out",
            str(out),
            "--jobs",
            "2",
        ],
        env=command_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert any("[3/3]" in line for line in process.stderr)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(LONGEST_S) in (0, 130)
        finally:
            process.kill()
    wait_for(lambda: not processes_of_sweep(out), "the end of what the sweep had started")
    assert len(list((out / "points").iterdir())) == 3


def check_against_a_fresh_guest(
    command: Command, experiment: Path, point: Path, tmp_path: Path
) -> None:
    """Compare a point of a guest that had carried out another one before: 20 us or 0.1 %."""
    sets = all_reduce("4 KiB", iterations=100, warmup=0)
    sets += ["--set", "topology.wan.west-east.delay=20 ms", "--isolation", "process"]
    fresh = tmp_path / "fresh"
    command("run", experiment.parent / "pair.yaml", "collectives", *sets, "--out", fresh)
    ns = (pl.col("end_ns") - pl.col("start_ns")).alias("ns")
    shared, own = (
        pl.read_parquet(folder / "ops.parquet").sort("rank", "start_ns").select(ns)
        for folder in (point, fresh)
    )
    assert shared.height == own.height > 0
    for a, b in zip(shared["ns"], own["ns"], strict=True):
        assert a == pytest.approx(b, abs=20_000, rel=1e-3)


def processes_of_sweep(out: Path) -> list[str]:
    """Give the processes that have a file below `out` open."""
    processes: list[str] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            files = [str(link.readlink()) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(str(out)) for file in files):
            processes.append(entry.name)
    return processes


def unmount(path: Path) -> None:
    """Unmount; a killed guest holds its files for a moment, until its memory is free."""
    deadline = time.monotonic() + 20
    while subprocess.run(["umount", path], check=False).returncode != 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def small_disk(tmp_path: Path, need: Need) -> Iterator[Path]:
    """A file system of 320 KiB: room for one point of 190 KiB and a part of the next."""
    need(os.geteuid() == 0, "root, who can mount a tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", path], check=False)
    need(done.returncode == 0, "the right to mount a tmpfs")
    try:
        yield path
    finally:
        unmount(path)


def test_full_disk(command: Command, experiment: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    done = command("sweep", experiment, "--out", out, "--jobs", 1, status=3)
    assert "is full" in done.stderr
    assert "1 complete points were kept" in done.stderr
    (first,) = (out / "points").iterdir()
    assert json.loads((first / "summary.json").read_text())["collectives"][0]["wrong"] == 0
    assert (first / "report.html").read_text().rstrip().endswith("</html>")
