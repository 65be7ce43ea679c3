"""Decide which point of a sweep runs next, and what follows from how each one ended.

The scheduler holds all of the policy: the order of the points, retries, lost workers, the end at
the first failure, and where run folders go. An `Executor` only carries out attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from testbed.sweep.folder import SweepDir, is_disk_full
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint

POLL_S = 0.5
MOST_LOSSES = 5  # of workers that a point survives without using up a retry


@dataclass(frozen=True)
class Attempt:
    """A try to run a point: its number, from 1, and how many workers the point has lost so far."""

    point: PlannedPoint
    number: int = 1
    losses: int = 0


@dataclass(frozen=True)
class Finished:
    """How an attempt ended.

    `unsettled` is the run folder, below running/, if the executor has not settled it already.
    `lost`: the attempt ended because its worker or node went away. `disk_full`: the attempt could
    not write its files.
    """

    attempt: Attempt
    record: PointRecord
    unsettled: Path | None = None
    lost: bool = False
    disk_full: bool = False


class Executor(Protocol):
    """Carries out attempts, several at once."""

    def start(self, points: Sequence[PlannedPoint]) -> int:
        """Prepare for `points`, of which the first are submitted next.

        Returns:
            How many points will run at once.

        Raises:
            TestbedError: the points cannot be run.
        """

    def has_room(self, point: PlannedPoint) -> bool:
        """Whether `point` can be submitted now; always true while no point is in flight."""

    def submit(self, attempt: Attempt) -> None:
        """Begin an attempt."""

    def wait(self, timeout_s: float) -> list[Finished]:
        """Give the attempts that have ended; returns after `timeout_s` if none has.

        Raises:
            MachineError: the disk is full.
        """

    def release_idle(self) -> None:
        """Give back what is kept for further points, because none waits."""

    def cancel(self) -> None:
        """End every attempt in flight."""

    def close(self) -> None:
        """After `cancel`: wait until everything that the executor had is given back."""


class SweepProgress(Protocol):
    """Shows how a sweep makes progress; `jobs` is how many points run at once."""

    jobs: int

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """Show that an attempt begins."""

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """Show that an attempt has ended; `again`: the point is tried once more."""

    def tick(self) -> None:
        """Show that time has passed."""


@dataclass(frozen=True)
class Policy:
    """What follows a failed point: up to `retries` attempts, or with `fail_fast` no new points."""

    retries: int = 0
    fail_fast: bool = False


class Scheduler:
    """Runs points with an executor until none is left."""

    def __init__(
        self, folder: SweepDir, executor: Executor, policy: Policy, progress: SweepProgress
    ) -> None:
        self._folder = folder
        self._executor = executor
        self._policy = policy
        self._progress = progress
        self._waiting: deque[Attempt] = deque()
        self._in_flight = 0
        self._stopped = False
        self._records: dict[str, PointRecord] = {}

    def run(self, points: Sequence[PlannedPoint]) -> dict[str, PointRecord]:
        """Run points, and cancel what is in flight if that is interrupted.

        Returns:
            How each point ended, by identity; points that never began are missing.

        Raises:
            TestbedError: the points cannot be run.
            MachineError: the disk is full.
            KeyboardInterrupt: the sweep was interrupted.
        """
        self._waiting = deque(Attempt(point) for point in points)

        try:
            self._progress.jobs = self._executor.start(points)
            while self._waiting or self._in_flight:
                self._submit()
                for finished in self._executor.wait(POLL_S):
                    self._in_flight -= 1
                    self._conclude(finished)
                if not self._waiting:
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
        """Settle an attempt that has ended, and decide whether its point is tried again.

        Raises:
            MachineError: the disk is full.
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

    def _settle(self, finished: Finished) -> None:
        if finished.unsettled is not None:
            try:
                self._folder.settle(finished.unsettled, finished.record)
            except OSError as error:
                if is_disk_full(error):
                    raise self._folder.disk_full() from error
                if finished.record.state == "completed":
                    raise

                # What a failed attempt left may be unreadable; other points go on.
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
    """Estimate how long the remaining points take.

    Args:
        wall_seconds: of each point that is done, by name.
        remaining: the number of points that are not done.
        jobs: how many of the points run at once.

    Returns:
        Seconds; None if no point is done.
    """
    if not wall_seconds:
        return None
    mean = sum(wall_seconds.values()) / len(wall_seconds)
    return mean * remaining / max(jobs, 1)
