"""Live progress of a sweep on standard error."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.text import Text

from testbed.cli.terminal import new_console
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.progress import done_text, duration
from testbed.sweep.scheduler import estimated_seconds


class SweepDisplay:
    """A line per completed attempt, and a status line for the whole sweep."""

    def __init__(self, total: int, done: int, live: Live | None) -> None:
        """Show a sweep.

        Args:
            total: Number of points of the sweep.
            done: Number of points that were done before.
            live: Display of the status line; None: standard error is not a terminal.
        """
        self.total = total
        self._done = done
        self._failed = 0
        self._unfaithful = 0
        self._running: set[str] = set()
        self._wall_seconds: dict[str, float] = {}  # by name of the completed point
        self._began = time.monotonic()
        self._live = live
        self.jobs = 1

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """Count a point that starts."""
        self._running.add(point.name)
        self.tick()

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """Print the outcome of an attempt.

        Args:
            point: The point of the attempt.
            record: Outcome of the attempt.
            again: Whether the point is retried.
        """
        self._running.discard(point.name)
        if record.state == "completed":
            self._done += 1
            self._unfaithful += record.misleads
            self._wall_seconds[record.name] = record.wall_seconds
            done = done_text(record.wall_seconds, record.shown_doubts)
            self._print(f"{record.name}: {done}")
        else:
            reason = record.reason.splitlines()[0]
            if again:
                self._print(f"{record.name}: failed, retrying: {reason}")
            else:
                self._failed += 1
                self._print(f"{record.name}: failed: {reason}")
        self.tick()

    def tick(self) -> None:
        """Show the elapsed time."""
        if self._live is not None:
            self._live.update(Text(self.status()), refresh=True)

    def status(self) -> str:
        """Return the status line: counts, estimated time left, and the slowest point."""
        passed = time.monotonic() - self._began
        parts = [
            f"{self._done} of {self.total} done",
            f"{self._failed} failed",
            *self._unfaithful_part(),
            f"{len(self._running)} running",
            f"{duration(passed)} so far",
        ]

        points_left = self.total - self._done - self._failed
        seconds_left = estimated_seconds(self._wall_seconds, points_left, self.jobs)
        if seconds_left is not None and points_left:
            parts.append(f"about {duration(seconds_left)} left")

        if self._wall_seconds:
            slowest = max(self._wall_seconds, key=self._wall_seconds.__getitem__)
            slowest_time = duration(self._wall_seconds[slowest])
            parts.append(f"slowest: {slowest} ({slowest_time})")

        line = ", ".join(parts)
        if self._live is None:
            return line
        width = shutil.get_terminal_size().columns
        return line[: width - 1]

    def _unfaithful_part(self) -> list[str]:
        """Return the number of unfaithful points, if there are any."""
        if not self._unfaithful:
            return []
        return [f"{self._unfaithful} NOT FAITHFUL"]

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
            return

        now = time.strftime("%H:%M:%S")
        ended = self._done + self._failed
        print(f"{now} [{ended}/{self.total}] {text}", file=sys.stderr)


@contextmanager
def display(total: int, done: int) -> Iterator[SweepDisplay]:
    """Show the progress of a sweep on standard error.

    Args:
        total: Number of points of the sweep.
        done: Number of points that were done before.
    """
    console = new_console(stderr=True)
    if done:
        console.print(f"{done} of {total} points are already done", highlight=False)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield SweepDisplay(total, done, live)
        return
    plain = SweepDisplay(total, done, None)
    try:
        yield plain
    finally:
        print(plain.status(), file=sys.stderr)
