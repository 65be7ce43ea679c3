"""Progress of a sweep: an object for callbacks, and a display that calls a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.scheduler import SweepProgress


@dataclass(frozen=True)
class PointProgress:
    """A change in the state of a point of a sweep; `str()` returns a line for people.

    Attributes:
        point: Name of the point.
        event: New state: the point was started, completed, failed, or is tried again.
        reason: Reason of the failure.
        seconds: Wall time of the attempt; None: the attempt has just started.
        done: Number of completed points.
        failed: Number of points that failed in their last attempt.
        total: Number of all points.
        unfaithful: Number of points that completed now and are not faithful.
        doubts: Why this completed point is not faithful; empty for a faithful point.
    """

    point: str
    event: Literal["started", "completed", "failed", "retried"]
    done: int
    failed: int
    total: int
    reason: str = ""
    seconds: float | None = None
    unfaithful: int = 0
    doubts: tuple[str, ...] = ()

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
            return done_text(self.seconds, self.doubts)
        return self.event


def done_text(seconds: float, doubts: Sequence[str]) -> str:
    """Describe a completed point: its wall time, and why it is not faithful."""
    text = f"done in {duration(seconds)}"
    if not doubts:
        return text
    return f"{text}, NOT FAITHFUL: {', '.join(doubts)}"


def duration(seconds: float) -> str:
    """Format a time as 42 s, 3:05 min or 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h"


class CallbackSweepProgress:
    """A `SweepProgress` that calls a function whenever a point starts or ends."""

    def __init__(
        self, callback: Callable[[PointProgress], object] | None, total: int, done: int
    ) -> None:
        self.jobs = 1
        self.total = total
        self._callback = callback
        self._done = done
        self._failed = 0
        self._unfaithful = 0

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """Report the start of an attempt."""
        self._pass_on(point, "started")

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """Report the end of an attempt.

        Args:
            point: The point of the attempt.
            record: Outcome of the attempt.
            again: Whether the point is retried.
        """
        event: Literal["completed", "failed", "retried"] = record.state
        if again:
            event = "retried"
        elif record.state == "completed":
            self._done += 1
            self._unfaithful += record.misleads
        else:
            self._failed += 1
        self._pass_on(point, event, record)

    def tick(self) -> None:
        """Do nothing."""

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
            total=self.total,
            reason="" if record is None else record.reason,
            seconds=None if record is None else record.wall_seconds,
            unfaithful=self._unfaithful,
            doubts=() if record is None else record.shown_doubts,
        )
        self._callback(progress)


# Display of a sweep, from its number of points and the number done before.
ShowSweep = Callable[[int, int], AbstractContextManager[SweepProgress]]


def shown_by(callback: Callable[[PointProgress], object] | None) -> ShowSweep:
    """Return a sweep display that calls a function; None: no display."""

    @contextmanager
    def display(total: int, done: int) -> Iterator[SweepProgress]:
        yield CallbackSweepProgress(callback, total, done)

    return display
