"""Records that cannot be true make a run not faithful, with the reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.analysis.conclude import conclude
from testbed.plan.model import Change, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.records import RecordsRefused, StageBegan, append
from testbed.runfolder.status import Status
from tests.support.synthetic import START_NS, make_plan, two_dcs, write_run, write_training_run

Lines = list[dict[str, Any]]
OWN = {
    ProblemCode.RECORDS_INCOMPLETE,
    ProblemCode.RECORDS_REFUSED,
    ProblemCode.CLOCK_DISORDERED,
}


def plan() -> Plan:
    return make_plan(two_dcs()).model_copy(update={"capture": "none"})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_run(tmp_path / "run", plan())


def judged(run: RunDir, state: str = "completed") -> dict[ProblemCode, str]:
    status = Status.model_validate({"state": state})
    conclude(run.read_plan(), run, status)
    found = {problem.code: problem.message for problem in status.warnings if problem.code in OWN}
    if found:
        assert status.faithful is False
    return found


def rewrite(path: Path, change: Callable[[Lines], None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_true_records(run: RunDir, tmp_path: Path) -> None:
    assert judged(run) == {}
    assert judged(write_training_run(tmp_path / "training", plan())) == {}


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "strange"])
def test_a_rank_without_whole_records(run: RunDir, damage: str) -> None:
    path = run.rank_ops(1)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_text("")
    elif damage == "cut":
        path.write_text(path.read_text()[:-20])
    else:
        path.write_text(path.read_text() + '{"op": 1}\n')
    message = "records are missing or damaged: of rank 1"
    assert judged(run)[ProblemCode.RECORDS_INCOMPLETE] == message


def test_a_run_without_records(run: RunDir) -> None:
    for rank in (0, 1):
        run.rank_ops(rank).write_text("")
    expected = "no rank has recorded an operation"
    assert judged(run)[ProblemCode.RECORDS_INCOMPLETE] == expected


def test_a_rank_without_steps(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "training", plan())
    run.rank_train(0).unlink()
    assert "of rank 0" in judged(run)[ProblemCode.RECORDS_INCOMPLETE]


def test_ranks_that_may_have_no_records(run: RunDir) -> None:
    """Those of a script, of a run that did not complete, and of hosts that crash as planned."""
    run.rank_ops(1).unlink()
    assert judged(run, state="interrupted") == {}
    before = run.read_plan()
    workers = before.workers.model_copy(update={"workload": "script"})
    run.write_plan(before.model_copy(update={"workers": workers}))
    assert judged(run) == {}
    crash = Change(at_ns=1, what=("down",), killed=(before.network.hosts[1].name,))
    network = before.network.model_copy(update={"changes": (crash,)})
    run.write_plan(before.model_copy(update={"network": network}))
    assert judged(run) == {}


def test_lines_that_were_refused(run: RunDir) -> None:
    append(run.events, RecordsRefused(host="east-0", lines=3))
    assert judged(run)[ProblemCode.RECORDS_REFUSED].startswith("east-0 wrote 3 lines into")


def set_field(number: int, field: str, value: int) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        lines[number][field] = value

    return change


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("end_ns", START_NS - 1),  # before its beginning
        ("end_ns", START_NS + 10**12),  # long after the run
        ("start_ns", START_NS - 2 * 10**9),  # before the ranks began
    ],
)
def test_times_that_cannot_be(run: RunDir, field: str, value: int) -> None:
    append(run.events, StageBegan(stage="import", time_ns=START_NS))
    rewrite(run.rank_ops(1), set_field(0, field, value))
    message = judged(run)[ProblemCode.CLOCK_DISORDERED]
    assert message.startswith("1 operations of rank 1 have times that cannot be")


def test_a_clock_ahead_by_microseconds_is_no_fault(run: RunDir) -> None:
    append(run.events, StageBegan(stage="import", time_ns=START_NS + 5000))
    assert judged(run) == {}


def test_steps_back_in_time(tmp_path: Path) -> None:
    run = write_training_run(tmp_path / "training", plan())
    rewrite(run.rank_train(1), set_field(3, "start_ns", START_NS + 1))
    assert "1 steps of rank 1" in judged(run)[ProblemCode.CLOCK_DISORDERED]


@pytest.mark.parametrize("field", ["time_ns", "bytes", "packets", "drops"])
def test_samples_of_links_that_decrease(run: RunDir, field: str) -> None:
    rewrite(run.link_samples, set_field(20, field, -1))
    assert "samples of links" in judged(run)[ProblemCode.CLOCK_DISORDERED]
