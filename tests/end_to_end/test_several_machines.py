"""Guests whose memory is not shared do what one guest does, and leave nothing when they are lost.

Each machine is played by processes of this one, which share nothing but a TCP connection.
"""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.api import prepare
from testbed.core.errors import GuestLost
from testbed.execution.launch import launch
from testbed.execution.limits import RunLimits
from testbed.execution.part_process import ProcessMachines
from testbed.execution.progress import RunProgress, as_progress
from testbed.guest.kernel import Kernel
from testbed.runfolder.folder import RunDir
from testbed.spec.options import RunOptions
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload
from tests.support.runs import LOSSY, PAIR, records_of_ranks

SMALL = ["workload.ops=[all_reduce,broadcast]", "workload.sizes=[64 KiB,256 KiB]"]
LONG = ["workload.ops=[all_reduce]", "workload.sizes=[64 KiB]", "workload.iterations=2000"]

Run = Callable[..., RunDir]


@pytest.fixture
def run(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Carry out a run with its guests on machines, or on one of them without `groups`."""
    monkeypatch.setenv("TESTBED_KERNEL", str(kernel.path))
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))

    def carry_out(
        topology: str,
        groups: Sequence[Sequence[int]],
        settings: Sequence[str],
        progress: Callable[[RunProgress], None] | None = None,
        **options: Any,
    ) -> RunDir:
        path = tmp_path / "topology.yaml"
        path.write_text(topology)
        guests = max(1, sum(map(len, groups)))
        overrides = parse_overrides(settings, ["workload"])["workload"]
        workload = load_workload("collectives", overrides)
        chosen = RunOptions(isolation="process", guests=guests, **options)
        prepared = prepare(Topology.load(str(path), []), workload, chosen)
        folder = prepared.new_folder(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        launch(
            prepared.plan,
            folder,
            spec="",
            command=[],
            limits=RunLimits(*chosen.limits_s),
            progress=as_progress(progress),
            machines=ProcessMachines(groups) if groups else None,
        )
        return folder

    return carry_out


def captured(folder: RunDir) -> dict[str, int]:
    """How many packets each capture has."""
    rows = json.loads(folder.summary.read_text())["captures"]
    return {row["capture"]: row["records"] for row in rows}


def guests_left(cache: Path) -> list[Path]:
    return [*(cache / "notes").glob("*"), *(cache / "parts").glob("*")]


def test_three_machines(run: Run, tmp_path: Path) -> None:
    """To the nanosecond, with losses, jitter and captures; the middle machine passes packets on."""
    one = run(LOSSY, [], SMALL, capture="wan")
    three = run(LOSSY, [[0], [1], [2]], SMALL, capture="wan")
    expected = records_of_ranks(one.path)
    assert len(expected) == 4
    assert all(expected.values())
    assert records_of_ranks(three.path) == expected
    assert captured(three) == captured(one)
    work = [json.loads(line) for line in three.guest_work.read_text().splitlines()]
    assert [row["machine"] for row in work] == ["process-0", "process-1", "process-2"]
    assert all(row["packets"] > 500 and row["cpu_s"] > 0 for row in work)
    logs = {path.name for path in three.logs.iterdir()}
    assert {"rank-0.log", "rank-3.log", "guest-console.log", "guest-console-2.log"} <= logs
    assert guests_left(tmp_path / "cache") == []


@pytest.mark.parametrize("victim", ["guest", "machine"])
def test_one_is_killed(run: Run, tmp_path: Path, victim: str) -> None:
    """While the run goes on: what was measured is kept, and nothing is left."""
    cache = tmp_path / "cache"
    killed: list[int] = []

    def kill(progress: RunProgress) -> None:
        if progress.done < 3 or killed:
            return
        guests = {int(file.read_text()) for file in (cache / "notes").glob("*/pid")}
        pid = max(guests)
        if victim == "machine":
            pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(GuestLost) as raised:
        run(PAIR, [[0], [1]], LONG, kill)
    assert raised.value.exit_status == 4
    (path,) = tmp_path.glob("run-*")
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_status"]) == ("failed", 4)
    assert len((path / "raw/ops-0.jsonl").read_text().splitlines()) >= 3
    assert len((path / "raw/ops-1.jsonl").read_text().splitlines()) >= 2
    assert not (path / "guests").exists()
    assert guests_left(cache) == []
