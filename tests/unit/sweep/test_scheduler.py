"""What a scheduler makes of attempts that complete, fail, are lost, or fill the disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from testbed.core.errors import MachineError
from testbed.spec.experiment import Experiment
from testbed.sweep.folder import SweepDir
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint, plan_points
from testbed.sweep.scheduler import MOST_LOSSES, Attempt, Finished, Policy, Scheduler

State = Literal["completed", "failed"]
Outcome = Callable[["FakeExecutor", Attempt], Finished]


class FakeExecutor:
    """Ends each attempt at once, one a call of `wait`, as `outcome` says."""

    def __init__(self, folder: SweepDir, outcome: Outcome, room: int = 1) -> None:
        self.folder = folder
        self.submitted: list[str] = []
        self.released = self.cancelled = 0
        self._outcome = outcome
        self._room = room
        self._in_flight: list[Attempt] = []

    def start(self, points: Sequence[PlannedPoint]) -> int:
        return self._room

    def has_room(self, point: PlannedPoint) -> bool:
        return len(self._in_flight) < self._room

    def submit(self, attempt: Attempt) -> None:
        self._in_flight.append(attempt)
        self.submitted.append(f"{attempt.point.name}/{attempt.number}")

    def wait(self, timeout_s: float) -> list[Finished]:
        return [self._outcome(self, self._in_flight.pop(0))]

    def release_idle(self) -> None:
        self.released += 1

    def cancel(self) -> None:
        self.cancelled += 1
        self._in_flight.clear()

    def close(self) -> None:
        pass


class FakeProgress:
    """Notes what it is shown."""

    def __init__(self) -> None:
        self.jobs = self.total = 0
        self.lines: list[str] = []

    def started(self, point: PlannedPoint, attempt: int) -> None:
        self.lines.append(f"{point.name} started")

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        self.lines.append(f"{point.name} {record.state}{' again' if again else ''}")

    def tick(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return SweepDir.create(tmp_path / "sweep")


@pytest.fixture
def points(tmp_path: Path) -> list[PlannedPoint]:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "topology: two-sites\n"
        "sweep: {grid: {workload.iterations: [1, 2, 3]}, name: 'p{iterations}'}\n"
    )
    return plan_points(Experiment.load(path), {})


def record_of(attempt: Attempt, state: State) -> PointRecord:
    point = attempt.point
    return PointRecord(
        identity=point.identity, name=point.name, state=state, attempt=attempt.number
    )


def finish(executor: FakeExecutor, attempt: Attempt, state: State) -> Finished:
    run_folder = executor.folder.running / attempt.point.folder
    return Finished(attempt, record_of(attempt, state), run_folder)


def complete(executor: FakeExecutor, attempt: Attempt) -> Finished:
    return finish(executor, attempt, "completed")


def fail_second_point(executor: FakeExecutor, attempt: Attempt) -> Finished:
    return finish(executor, attempt, "failed" if attempt.point.name == "p2" else "completed")


def lose_first_point(executor: FakeExecutor, attempt: Attempt) -> Finished:
    if attempt.point.name == "p1":
        return Finished(attempt, record_of(attempt, "failed"), lost=True)
    return complete(executor, attempt)


def fill_disk(executor: FakeExecutor, attempt: Attempt) -> Finished:
    return Finished(attempt, record_of(attempt, "failed"), disk_full=True)


def states(records: dict[str, PointRecord]) -> dict[str, str]:
    return {record.name: record.state for record in records.values()}


def test_points_are_run_in_order_and_settled(folder: SweepDir, points: list[PlannedPoint]) -> None:
    executor, progress = FakeExecutor(folder, complete, room=2), FakeProgress()
    records = Scheduler(folder, executor, Policy(), progress).run(points)
    assert executor.submitted == ["p1/1", "p2/1", "p3/1"]
    assert list(records) == [point.identity for point in points]
    assert folder.done().keys() == records.keys()
    assert progress.jobs == 2
    assert progress.lines[:4] == ["p1 started", "p2 started", "p1 completed", "p3 started"]
    assert (executor.released, executor.cancelled) == (2, 1)  # while p3 and then nothing waits


def test_retries_come_after_other_points(folder: SweepDir, points: list[PlannedPoint]) -> None:
    executor, progress = FakeExecutor(folder, fail_second_point), FakeProgress()
    records = Scheduler(folder, executor, Policy(retries=2), progress).run(points)
    assert executor.submitted == ["p1/1", "p2/1", "p3/1", "p2/2", "p2/3"]
    assert states(records) == {"p1": "completed", "p2": "failed", "p3": "completed"}
    assert progress.lines.count("p2 failed again") == 2
    assert progress.lines[-1] == "p2 failed"
    assert folder.failures().keys() == {points[1].identity}


def test_fail_fast_starts_no_further_point(folder: SweepDir, points: list[PlannedPoint]) -> None:
    executor = FakeExecutor(folder, fail_second_point)
    policy = Policy(fail_fast=True)
    records = Scheduler(folder, executor, policy, FakeProgress()).run(points)
    assert executor.submitted == ["p1/1", "p2/1"]
    assert states(records) == {"p1": "completed", "p2": "failed"}


def test_lost_workers_use_up_no_retry(folder: SweepDir, points: list[PlannedPoint]) -> None:
    executor = FakeExecutor(folder, lose_first_point)
    records = Scheduler(folder, executor, Policy(), FakeProgress()).run(points)
    assert executor.submitted.count("p1/1") == 1 + MOST_LOSSES
    assert states(records) == {"p1": "failed", "p2": "completed", "p3": "completed"}


def test_full_disk_ends_the_sweep(folder: SweepDir, points: list[PlannedPoint]) -> None:
    executor = FakeExecutor(folder, fill_disk, room=3)
    with pytest.raises(
        MachineError, match=r"is full: the sweep was aborted\n  0 complete points were kept"
    ):
        Scheduler(folder, executor, Policy(), FakeProgress()).run(points)
    assert executor.cancelled == 1


def test_interrupt_cancels_what_is_in_flight(folder: SweepDir, points: list[PlannedPoint]) -> None:
    def interrupt(executor: FakeExecutor, attempt: Attempt) -> Finished:
        raise KeyboardInterrupt

    executor = FakeExecutor(folder, interrupt)
    with pytest.raises(KeyboardInterrupt):
        Scheduler(folder, executor, Policy(retries=1), FakeProgress()).run(points)
    assert executor.cancelled == 1
