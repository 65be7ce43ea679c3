"""Runs in the machine's own kernel. This machine's may have no netem, so the machine is a guest on
the real clock.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from testbed.guest.kernel import Kernel
from tests.support.census import differences
from tests.support.guests import console, finish, guest_with, result

MS = 10**6  # ns
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


@pytest.fixture(scope="module")
def folder(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared folder, after inside/host_runs.py has run all cases."""
    path = tmp_path_factory.mktemp("here") / "shared"
    with guest_with(kernel, "host_runs.py", path, *CASES, clock="real") as guest:
        assert finish(guest) == 0, console(path)
    return path


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def found(folder: Path, case: str) -> dict[str, Any]:
    told: dict[str, Any] = result(folder)[case]
    assert "error" not in told, told["error"]
    return told


def test_it_ends_as_it_should(folder: Path, case: str, found: dict[str, Any]) -> None:
    mode = case.split("-")[1]
    errors = (folder / case / "err").read_text()
    assert found["status"] == STATUS[mode], errors
    status = json.loads((folder / case / "run/status.json").read_text())
    assert status["state"] == STATE[mode]
    assert bool(status["warnings"]) != status["faithful"] or mode == "kill"


def test_nothing_is_left_and_nothing_of_others_is_touched(case: str, found: dict[str, Any]) -> None:
    """Bridge, queue, namespace, control group, process, container and image of others are as they
    were.
    """
    assert "testbed-lab running" in found["before"]["containers and images"]
    assert "testbed-br" in found["before"]["links"]
    assert differences(found["before"], found["after"]) == {}


def test_what_is_made_is_the_runs_own(case: str, found: dict[str, Any]) -> None:
    """While it runs, others see its processes, namespaces, and a control group with its name;
    nothing else.
    """
    seen = differences(found["before"], found["during"])
    new = {kind: change[0] for kind, change in seen.items()}
    assert {kind: change[1] for kind, change in seen.items() if change[1]} == {}
    assert set(new) <= {"processes", "namespaces", "control groups", "controllers"}
    assert {"processes", "namespaces", "control groups"} <= set(new)
    assert all("/sys/fs/cgroup/testbed-" in group for group in new["control groups"])


def test_kill_leaves_a_control_group_at_most(folder: Path) -> None:
    found = result(folder)["process-kill"]
    left = {
        kind: change[0] for kind, change in differences(found["before"], found["killed"]).items()
    }
    assert set(left) <= {"control groups", "controllers"}


@pytest.mark.parametrize("isolation", ["process", "container"])
def test_it_measures_what_was_planned(folder: Path, isolation: str) -> None:
    """1 Gbit/s and 10 ms each way: two ranks need four one-way trips, on a busy machine some
    more.
    """
    run = folder / f"{isolation}-complete" / "run"
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["where"], plan["clock"]) == ("here", "real")
    summary = json.loads((run / "summary.json").read_text())
    small, large = summary["collectives"]
    assert (small["wrong"], large["wrong"]) == (0, 0)
    assert 40 <= small["time_us"]["min"] / 1000 < 80
    assert 40 + 256 * 1024 * 8 / 1e9 * 1000 <= large["time_us"]["min"] / 1000 < 160
    (trip,) = summary["fidelity"]
    assert 20 <= trip["rtt_ms_measured"] < 40
    assert (
        pl.read_parquet(run / "ops.parquet")["start_ns"].min() > 1_700_000_000 * 10**9
    )  # this machine's clock
    strain = json.loads((run / "raw/strain.json").read_text())
    assert strain["late_us"]["samples"] > 0
    assert strain["fibre_drops"] == {}


def test_links_change_on_the_real_clock(folder: Path) -> None:
    """40 ms each way from 0.5 s on, for a second: four trips take 160 ms, and 40 before and
    after.
    """
    run = folder / "process-change" / "run"
    changes = [json.loads(line) for line in (run / "raw/changes.jsonl").read_text().splitlines()]
    assert len(changes) == 2
    ops = pl.read_parquet(run / "ops.parquet").filter(
        (pl.col("rank") == 0) & (pl.col("bytes") == 4096)
    )
    during = ops.filter(
        (pl.col("start_ns") > changes[0]["time_ns"]) & (pl.col("end_ns") < changes[1]["due_ns"])
    )
    durations = during["end_ns"] - during["start_ns"]
    assert during.height >= 2
    assert durations.min() >= 160 * MS
    assert 40 * MS <= (ops["end_ns"] - ops["start_ns"]).min() < 80 * MS
    assert all(change["time_ns"] >= change["due_ns"] for change in changes)
