"""Decide which point of a sweep runs next, and how to act on the outcome of each attempt.

The scheduler holds all of the policy: the order of the points, retries, lost workers, stopping at
the first failure, and the final place of run folders. An `Executor` only carries out attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from testbed.core.full_disk import is_disk_full
from testbed.sweep.folder import SweepDir
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint

POLL_S = 0.5
MOST_LOSSES = 5  # number of lost workers before a further loss counts as a retry


@dataclass(frozen=True)
class Attempt:
    """An attempt to run a point: its number, from 1, and the number of workers lost so far."""

    point: PlannedPoint
    number: int = 1
    losses: int = 0


@dataclass(frozen=True)
class Finished:
    """The outcome of an attempt.

    `unsettled` is the run folder, below running/, unless the executor has settled the folder.
    `lost`: the attempt ended because its worker or node disappeared. `disk_full`: the attempt could
    not write its files.
    """

    attempt: Attempt
    record: PointRecord
    unsettled: Path | None = None
    lost: bool = False
    disk_full: bool = False


class Executor(Protocol):
    """Carries out several attempts in parallel."""

    def start(self, points: Sequence[PlannedPoint]) -> int:
        """Prepare for `points`; the first of them are submitted next.

        Returns:
            The number of points that will run in parallel.

        Raises:
            TestbedError: The points cannot be run.
        """

    def has_room(self, point: PlannedPoint) -> bool:
        """Return whether `point` can be submitted now; always true with no point in flight."""

    def submit(self, attempt: Attempt) -> None:
        """Start an attempt."""

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the attempts that have ended; empty after `timeout_s` seconds.

        Raises:
            MachineError: The disk is full.
        """

    def release_idle(self) -> None:
        """Release resources kept for further points, because no points are waiting."""

    def cancel(self) -> None:
        """End every attempt in flight."""

    def close(self) -> None:
        """Wait until all resources of the executor are released after `cancel`."""


class SweepProgress(Protocol):
    """Shows the progress of a sweep.

    `jobs` is the number of points that run in parallel, `total` the number of all points.
    """

    jobs: int
    total: int

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """Show the start of an attempt."""

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """Show the end of an attempt.

        Args:
            point: The point of the attempt.
            record: Outcome of the attempt.
            again: Whether the point is retried.
        """

    def tick(self) -> None:
        """Show the elapsed time."""


@dataclass(frozen=True)
class Policy:
    """Reaction to a failed point: up to `retries` more attempts; `fail_fast`: no new points."""

    retries: int = 0
    fail_fast: bool = False


# The points to run after a point has ended, which depend on its outcome.
Follow = Callable[[PlannedPoint, PointRecord], Sequence[PlannedPoint]]


class Scheduler:
    """Runs points with an executor until none remain."""

    def __init__(
        self,
        folder: SweepDir,
        executor: Executor,
        policy: Policy,
        progress: SweepProgress,
        follow: Follow | None = None,
    ) -> None:
        """Run points with `executor`; `follow` is called with each point that has ended."""
        self._folder = folder
        self._executor = executor
        self._policy = policy
        self._progress = progress
        self._follow = follow
        self._waiting: deque[Attempt] = deque()
        self._in_flight = 0
        self._stopped = False
        self._records: dict[str, PointRecord] = {}

    def run(
        self, points: Sequence[PlannedPoint], prepared: Sequence[PlannedPoint] = ()
    ) -> dict[str, PointRecord]:
        """Run points, and cancel the attempts in flight on an interrupt.

        Args:
            points: The points to run.
            prepared: Further points that the executor prepares for.

        Returns:
            Outcome of each point by identity, without points that never started.

        Raises:
            TestbedError: The points cannot be run.
            MachineError: The disk is full.
            KeyboardInterrupt: The sweep was interrupted.
        """
        self._waiting = deque(Attempt(point) for point in points)

        try:
            self._progress.jobs = self._executor.start([*points, *prepared])
            while self._waiting or self._in_flight:
                self._submit()
                for finished in self._executor.wait(POLL_S):
                    self._in_flight -= 1
                    self._conclude(finished)
                if not self._waiting and self._follow is None:
                    self._executor.release_idle()
                self._progress.tick()
        finally:
            self._executor.cancel()

        return self._records

    def _submit(self) -> None:
        while self._waiting:
            attempt = self._waiting[0]
            if not self._executor.has_room(attempt.point):
                return
            self._waiting.popleft()
            self._executor.submit(attempt)
            self._in_flight += 1
            self._progress.started(attempt.point, attempt.number)

    def _conclude(self, finished: Finished) -> None:
        """Settle an attempt that has ended, and decide whether to retry its point.

        Raises:
            MachineError: The disk is full.
        """
        self._settle(finished)
        point, record = finished.attempt.point, finished.record
        further_attempt = self._further_attempt(finished)
        self._progress.ended(point, record, further_attempt is not None)
        if further_attempt is not None:
            self._waiting.append(further_attempt)
            return

        self._records[point.identity] = record
        if record.state == "failed" and self._policy.fail_fast:
            self._stopped = True
            self._waiting.clear()
        if self._follow is not None and not self._stopped:
            self._waiting.extend(map(Attempt, self._follow(point, record)))

    def _settle(self, finished: Finished) -> None:
        if finished.unsettled is not None:
            try:
                self._folder.settle(finished.unsettled, finished.record)
            except OSError as error:
                if is_disk_full(error):
                    raise self._folder.disk_full() from error
                if finished.record.state == "completed":
                    raise

                # The folder of a failed attempt may be unreadable; other points continue.
        if finished.disk_full:
            raise self._folder.disk_full()

    def _further_attempt(self, finished: Finished) -> Attempt | None:
        attempt = finished.attempt
        if self._stopped:
            return None
        if finished.lost and attempt.losses < MOST_LOSSES:
            return replace(attempt, losses=attempt.losses + 1)
        if finished.record.state == "failed" and attempt.number <= self._policy.retries:
            return replace(attempt, number=attempt.number + 1)
        return None


def estimated_seconds(wall_seconds: Mapping[str, float], remaining: int, jobs: int) -> float | None:
    """Estimate the wall time of the remaining points.

    Args:
        wall_seconds: Wall time of each completed point, by name.
        remaining: Number of points that are not done.
        jobs: Number of points that run in parallel.

    Returns:
        Seconds; None if no point is done.
    """
    if not wall_seconds:
        return None
    mean = sum(wall_seconds.values()) / len(wall_seconds)
    return mean * remaining / max(jobs, 1)
