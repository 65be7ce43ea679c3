"""How far a sweep is: as an object for callbacks, and as nothing where nobody follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.scheduler import SweepProgress


@dataclass(frozen=True)
class PointProgress:
    """What has just happened to a point of a sweep; `str()` gives a line for people.

    Attributes:
        point: Name of the point.
        event: What happened: the point was started, completed, failed, or is tried again.
        reason: Why the point failed.
        seconds: Wall time that the attempt took; None: it has just started.
        done: Number of points that are completed.
        failed: Number of points that have failed for good.
        total: Number of points in all.
    """

    point: str
    event: Literal["started", "completed", "failed", "retried"]
    done: int
    failed: int
    total: int
    reason: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        ended = self.done + self.failed
        return f"[{ended}/{self.total}] {self.point}: {self._text()}"

    def _text(self) -> str:
        first_line = self.reason.partition("\n")[0]
        if self.event == "retried":
            return f"failed, retrying: {first_line}"
        if self.event == "failed":
            return f"failed: {first_line}"
        if self.event == "completed" and self.seconds is not None:
            return f"done in {duration(self.seconds)}"
        return self.event


def duration(seconds: float) -> str:
    """Write a time as 42 s, 3:05 min or 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h"


class CallbackSweepProgress:
    """A `SweepProgress` that is given to a function whenever something happens to a point."""

    def __init__(
        self, callback: Callable[[PointProgress], object] | None, total: int, done: int
    ) -> None:
        self.jobs = 1
        self._callback = callback
        self._total = total
        self._done = done
        self._failed = 0

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """Pass on that an attempt begins."""
        self._pass_on(point, "started")

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """Pass on how an attempt has ended; `again`: the point is tried once more."""
        event: Literal["completed", "failed", "retried"] = record.state
        if again:
            event = "retried"
        elif record.state == "completed":
            self._done += 1
        else:
            self._failed += 1
        self._pass_on(point, event, record)

    def tick(self) -> None:
        """Ignore that time has passed."""

    def _pass_on(
        self,
        point: PlannedPoint,
        event: Literal["started", "completed", "failed", "retried"],
        record: PointRecord | None = None,
    ) -> None:
        if self._callback is None:
            return
        progress = PointProgress(
            point=point.name,
            event=event,
            done=self._done,
            failed=self._failed,
            total=self._total,
            reason="" if record is None else record.reason,
            seconds=None if record is None else record.wall_seconds,
        )
        self._callback(progress)


# Shows a sweep, given the number of its points and of those that were done before.
ShowSweep = Callable[[int, int], AbstractContextManager[SweepProgress]]


def shown_by(callback: Callable[[PointProgress], object] | None) -> ShowSweep:
    """Make the display of a sweep that calls a function; None: nothing is shown."""

    @contextmanager
    def display(total: int, done: int) -> Iterator[SweepProgress]:
        yield CallbackSweepProgress(callback, total, done)

    return display
