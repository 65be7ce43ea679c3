"""Runs in the machine's own kernel. This machine's may have no netem, so the machine is a guest.

The guest is on the real clock.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from testbed.guest.kernel import Kernel
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import NetworkChange, read
from tests.support.census import differences
from tests.support.guests import console, finish, guest_with, result

MS = 10**6  # ns
YEAR_2023_NS = 1_700_000_000 * 10**9
CASES = (
    "process-complete",
    "container-complete",
    "process-change",
    "process-interrupt",
    "process-kill",
)
STATUS = {"complete": 0, "change": 0, "interrupt": 130, "kill": -9}
STATE = {
    "complete": "completed",
    "change": "completed",
    "interrupt": "interrupted",
    "kill": "interrupted",
}
SEEN_BY_OTHERS = {"processes", "namespaces", "control groups", "controllers"}


@pytest.fixture(scope="module")
def folder(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder, after inside/host_runs.py has run all cases."""
    path = tmp_path_factory.mktemp("host-runs") / "shared"
    with guest_with(kernel, "host_runs.py", path, *CASES, clock="real") as guest:
        assert finish(guest) == 0, console(path)
    return path


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def observed(folder: Path, case: str) -> dict[str, Any]:
    """What was counted before, during and after a case, and the exit status."""
    outcome: dict[str, Any] = result(folder)[case]
    assert "error" not in outcome, outcome["error"]
    return outcome


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_status(folder: Path, case: str, observed: dict[str, Any]) -> None:
    mode = case.split("-")[1]
    errors = (folder / case / "err").read_text()
    assert observed["status"] == STATUS[mode], errors
    status = read_json(folder / case / "run/status.json")
    assert status["state"] == STATE[mode]
    assert bool(status["warnings"]) != status["faithful"] or mode == "kill"


def test_nothing_is_left_and_nothing_of_others_is_touched(observed: dict[str, Any]) -> None:
    """Bridge, queue, namespace, control group, process, container and image of others stay."""
    before = observed["before"]
    assert "testbed-lab running" in before["containers and images"]
    assert "testbed-br" in before["links"]
    assert differences(before, observed["after"]) == {}


def test_others_see_only_the_runs_own(observed: dict[str, Any]) -> None:
    """Others see its processes, namespaces and a control group with its name, while it runs."""
    changes = differences(observed["before"], observed["during"])
    for kind, (added, removed) in changes.items():
        assert removed == [], kind
        assert kind in SEEN_BY_OTHERS, added
    assert {"processes", "namespaces", "control groups"} <= set(changes)
    for group in changes["control groups"][0]:
        assert "/sys/fs/cgroup/testbed-" in group


def test_kill_leaves_a_control_group_at_most(folder: Path) -> None:
    observed = result(folder)["process-kill"]
    left = differences(observed["before"], observed["killed"])
    assert set(left) <= {"control groups", "controllers"}


@pytest.mark.parametrize("isolation", ["process", "container"])
def test_measures_what_was_planned(folder: Path, isolation: str) -> None:
    """1 Gbit/s and 10 ms each way: two ranks need four one-way trips; more on a busy machine."""
    run = RunDir(folder / f"{isolation}-complete" / "run")
    plan = read_json(run.plan)
    assert (plan["where"], plan["clock"]) == ("here", "real")
    summary = read_json(run.summary)
    small, large = summary["collectives"]
    assert (small["wrong"], large["wrong"]) == (0, 0)
    assert 40 <= small["time_us"]["min"] / 1000 < 80
    transfer_ms = 256 * 1024 * 8 / 1e9 * 1000
    assert 40 + transfer_ms <= large["time_us"]["min"] / 1000 < 160
    (trip,) = summary["fidelity"]
    assert 20 <= trip["rtt_ms_measured"] < 40
    starts_ns: list[int] = pl.read_parquet(run.ops)["start_ns"].to_list()
    assert min(starts_ns) > YEAR_2023_NS, "the clock is this machine's"
    clock_health = read_json(run.strain)
    assert clock_health["late_us"]["samples"] > 0
    assert clock_health["fibre_drops"] == {}


def test_links_change_on_the_real_clock(folder: Path) -> None:
    """40 ms each way from 0.5 s on, for 1 s: four trips take 160 ms; 40 ms before and after."""
    run = RunDir(folder / "process-change" / "run")
    changes: list[NetworkChange]
    changes, problems = read(run.changes, NetworkChange)
    assert (len(changes), problems) == (2, [])
    assert all(change.time_ns >= change.due_ns for change in changes)
    begin, end = changes
    rows = pl.read_parquet(run.ops).filter((pl.col("rank") == 0) & (pl.col("bytes") == 4096))
    durations_ns = []
    durations_during_ns = []
    for row in rows.iter_rows(named=True):
        duration_ns = row["end_ns"] - row["start_ns"]
        durations_ns.append(duration_ns)
        if row["start_ns"] > begin.time_ns and row["end_ns"] < end.due_ns:
            durations_during_ns.append(duration_ns)
    assert len(durations_during_ns) >= 2
    assert min(durations_during_ns) >= 160 * MS
    assert 40 * MS <= min(durations_ns) < 80 * MS
