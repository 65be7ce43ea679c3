"""Records of ranks go through pipes: whole lines, in order, and only what a host may write."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.record_file import RecordFile
from testbed.runfolder.records import (
    EVENT,
    FirstOperation,
    Operation,
    OperationsTotal,
    RankStarted,
    RecordsRefused,
    SeparateWorld,
    StageBegan,
    append,
    read,
)
from testbed.workers import collector as module
from testbed.workers.collector import Collector
from tests.support.synthetic import make_plan, two_dcs

FIRST = FirstOperation(time_ns=5)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(two_dcs())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


@pytest.fixture
def collector(run: RunDir, plan: Plan, tmp_path: Path) -> Iterator[Collector]:
    made = Collector(run, plan, tmp_path / "pipes")
    made.open()
    yield made
    made.close()


def seen_by(collector: Collector, plan: Plan, rank: int, tmp_path: Path) -> RunDir:
    """The run folder as the host of a rank sees it: pipes are in place of the records."""
    view = tmp_path / f"view-{rank}"
    view.mkdir()
    (view / "raw").symlink_to(collector.folder_of(plan.workers.ranks[rank].host))
    return RunDir(view)


def operation(number: int) -> Operation:
    return Operation(
        op="all_reduce",
        bytes=4,
        group_size=2,
        iteration=number,
        phase="measure",
        dtype="float32",
        start_ns=number,
        end_ns=number + 1,
    )


def refused(run: RunDir) -> dict[str, int]:
    events, _problems = read(run.events, EVENT)
    return {event.host: event.lines for event in events if isinstance(event, RecordsRefused)}


def test_records_arrive_in_order(
    run: RunDir, plan: Plan, collector: Collector, tmp_path: Path
) -> None:
    views = [seen_by(collector, plan, rank, tmp_path) for rank in (0, 1)]
    for view, rank in zip(views, (0, 1), strict=True):
        file = RecordFile(view, view.rank_ops(rank))
        for number in range(10):
            file.write(operation(number + 100 * rank))
        file.close()
    append(views[0].events, FIRST)
    collector.collect()
    for rank in (0, 1):
        found, problems = read(run.rank_ops(rank), Operation)
        assert problems == []
        assert [record.iteration for record in found] == [n + 100 * rank for n in range(10)]
    assert read(run.events, EVENT) == ([FIRST], [])


def test_a_full_pipe_is_emptied_at_once(
    run: RunDir, plan: Plan, collector: Collector, tmp_path: Path
) -> None:
    """The writer of a megabyte does not wait for the next look, which would be in a minute."""
    view = seen_by(collector, plan, 0, tmp_path)

    def write() -> None:
        file = RecordFile(view, view.rank_ops(0))
        for number in range(5000):
            file.write(operation(number))
        file.close()
        append(view.events, FIRST)

    writer = threading.Thread(target=write)
    began = time.monotonic()
    writer.start()
    while not run.events.exists():
        collector.wait(60)
        collector.collect()
    writer.join()
    collector.collect()
    assert time.monotonic() - began < 30  # seconds; a fraction of one without other work
    assert [record.iteration for record in read(run.rank_ops(0), Operation)[0]] == [*range(5000)]


def test_a_host_has_pipes_of_its_own_ranks_only(plan: Plan, collector: Collector) -> None:
    host = plan.workers.ranks[0].host
    names = {path.name for path in collector.folder_of(host).iterdir()}
    expected = {"events.jsonl", "ranks.jsonl"}
    for rank in plan.workers.ranks:
        if rank.host == host:
            expected |= {f"ops-{rank.rank}.jsonl", f"train-{rank.rank}.jsonl"}
    assert names == expected


def test_what_is_written_cannot_be_read_or_replaced(plan: Plan, collector: Collector) -> None:
    for path in collector.folder_of(plan.workers.ranks[0].host).iterdir():
        mode = path.stat().st_mode
        assert stat.S_ISFIFO(mode)
        assert stat.S_IMODE(mode) == 0o222
        with pytest.raises(OSError, match="Invalid argument"):
            os.truncate(path, 0)


def test_false_events_are_refused(
    run: RunDir, plan: Plan, collector: Collector, tmp_path: Path
) -> None:
    """A host reports about its own ranks; the stages and the outcome are not its business."""
    other = next(rank for rank in plan.workers.ranks if rank.host != plan.workers.ranks[0].host)
    view = seen_by(collector, plan, other.rank, tmp_path)
    append(view.events, SeparateWorld(rank=other.rank, world_size=1))
    false = [
        FIRST,  # of rank 0
        OperationsTotal(total=1, unit="step"),
        SeparateWorld(rank=0, world_size=1),
        StageBegan(stage="ops", time_ns=1),
    ]
    for event in false:
        append(view.events, event)
    with view.events.open("ab") as pipe:
        pipe.write(b'{"state": "completed", "time_ns": 1}\nnonsense\n' + b"[" * 2000 + b"\n")
    started = RankStarted(rank=0, host="x", interfaces=[], capabilities=0, no_new_privileges=True)
    append(view.rank_starts, started)
    collector.close()
    events, problems = read(run.events, EVENT)
    assert problems == []
    assert [event.state for event in events] == ["separate", "refused"]
    assert refused(run) == {other.host: len(false) + 4}
    assert not run.rank_starts.exists()


def test_what_a_host_may_write_is_limited(
    run: RunDir, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    monkeypatch.setattr(module, "LONGEST_LINE", 2000)
    limited = Collector(run, plan, tmp_path / "pipes")
    limited.open()
    view = seen_by(limited, plan, 0, tmp_path)
    with view.rank_ops(0).open("ab", buffering=0) as pipe:
        for _number in range(30):
            pipe.write(b"x" * 99 + b"\n")
        pipe.write(b"y" * 3000)  # a line that does not end
    limited.close()
    assert run.rank_ops(0).stat().st_size == 1000
    assert refused(run) == {plan.workers.ranks[0].host: 21}
