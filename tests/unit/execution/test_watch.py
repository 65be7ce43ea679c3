"""What is relayed of a run while it goes on, and what is kept of its stages."""

from pathlib import Path

import pytest

from testbed.execution.limits import RunLimits
from testbed.execution.supervise import Watch
from testbed.guest.clock import ClockReading
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    FirstOperation,
    OperationsTotal,
    Record,
    RunEnded,
    StageBegan,
    StageEnded,
    append,
)

SECOND_NS = 10**9


class FakeRun:
    """A run on a virtual clock, which is set by hand."""

    def __init__(self) -> None:
        self.reading = ClockReading(0, 0, 1, "host", "init")

    def status(self) -> int | None:
        return None

    def clock(self) -> ClockReading | None:
        return self.reading

    def cpu_seconds(self) -> float:
        return 0.0


class FakeDisplay:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.progress: list[tuple[int, int, str]] = []

    def building(self, what: str, part: float) -> None: ...

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def advance(self, done: int, total: int, unit: str) -> None:
        self.progress.append((done, total, unit))

    def measured(self) -> None: ...


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run")


def note(run: RunDir, *records: Record) -> None:
    for record in records:
        append(run.events, record)


def test_stages_have_wall_and_emulated_time(run: RunDir) -> None:
    display = FakeDisplay()
    watch = Watch(run, FakeRun(), RunLimits(60), display)
    note(run, StageBegan(stage="network", time_ns=0), StageEnded(stage="network", time_ns=5))
    note(run, StageBegan(stage="ops", time_ns=2 * SECOND_NS))
    watch.look()
    note(run, StageEnded(stage="ops", time_ns=5 * SECOND_NS))
    note(run, RunEnded(state="completed", time_ns=6 * SECOND_NS))
    watch.look()
    assert display.stages == ["network", "ops"]
    emulated = {row.stage: row.emulated_seconds for row in watch.stages}
    assert emulated == {"boot": None, "network": 2.0, "ops": 4.0}
    assert all(row.wall_seconds is not None for row in watch.stages)


@pytest.mark.parametrize("unit", ["operation", "step"])
def test_operations_are_counted(run: RunDir, unit: str) -> None:
    display = FakeDisplay()
    watch = Watch(run, FakeRun(), RunLimits(60), display)
    watch.look()
    assert display.progress == []
    total = OperationsTotal.model_validate({"total": 3, "unit": unit})
    note(run, FirstOperation(time_ns=1), total)
    records = run.rank_train(0) if unit == "step" else run.rank_ops(0)
    records.write_text("{}\n{}\n{")
    watch.look()
    records.write_text("{}\n{}\n{}\n")
    watch.look()
    assert display.progress == [(2, 3, unit), (3, 3, unit)]


def test_time_forced_during_the_operations(run: RunDir) -> None:
    fake_run = FakeRun()
    watch = Watch(run, fake_run, RunLimits(60), FakeDisplay())
    fake_run.reading = ClockReading(SECOND_NS, 100, 1, "host", "init")
    note(run, StageBegan(stage="ops", time_ns=0))
    watch.look()
    fake_run.reading = ClockReading(2 * SECOND_NS, 350, 9, "iowa-h0", "spin")
    watch.look()
    note(run, RunEnded(state="completed", time_ns=3 * SECOND_NS))
    watch.look()
    assert watch.forced_ns == 250
    assert watch.clock.spinner == "spin (pid 9) on iowa-h0"
