"""Live progress of a sweep on standard error."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint
from testbed.sweep.scheduler import estimated_seconds


def duration(seconds: float) -> str:
    """As 42 s, 3:05 min or 2:10 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


class SweepDisplay:
    """Live progress on standard error: a line for each point that has ended, and one about the
    whole.
    """

    def __init__(self, total: int, done: int, live: Live | None) -> None:
        self._total, self._done, self._failed = total, done, 0
        self._running: dict[str, float] = {}
        self._walls: dict[str, float] = {}
        self._begin, self._live = time.monotonic(), live
        self.jobs = 1

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """A point begins."""
        self._running[point.name] = time.monotonic()
        self.tick()

    def ended(self, point: PlannedPoint, record: PointRecord, again: bool) -> None:
        """A point has ended."""
        self._running.pop(point.name, None)
        if record.state == "completed":
            self._done += 1
            self._walls[record.name] = record.wall_seconds
            self._say(f"{record.name}: done in {duration(record.wall_seconds)}")
        else:
            self._failed += not again
            what = "failed, and is tried again" if again else "failed"
            self._say(f"{record.name}: {what}: {record.reason.splitlines()[0]}")
        self.tick()

    def tick(self) -> None:
        """Some time has passed."""
        if self._live is not None:
            self._live.update(Text(self.status()), refresh=True)

    def status(self) -> str:
        """The whole in one line: counts, estimate, the slowest point."""
        left = self._total - self._done - self._failed
        parts = [
            f"{self._done} of {self._total} done",
            f"{self._failed} failed",
            f"{len(self._running)} running",
        ]
        rest = estimated_seconds(self._walls, left, self.jobs)
        parts.append(f"{duration(time.monotonic() - self._begin)} so far")
        if rest is not None and left:
            parts.append(f"about {duration(rest)} left")
        if self._walls:
            slowest = max(self._walls, key=lambda name: self._walls[name])
            parts.append(f"slowest: {slowest} ({duration(self._walls[slowest])})")
        width = shutil.get_terminal_size().columns
        return ", ".join(parts)[: width - 1] if self._live else ", ".join(parts)

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(
                f"{time.strftime('%H:%M:%S')} [{self._done + self._failed}/{self._total}] {text}",
                file=sys.stderr,
            )


@contextmanager
def display(total: int, done: int) -> Iterator[SweepDisplay]:
    """The display that fits standard error; ends with a line about the whole."""
    console = Console(stderr=True)
    if done:
        console.print(f"{done} of {total} points are done already", highlight=False)
    if not console.is_terminal:
        shown = SweepDisplay(total, done, None)
        try:
            yield shown
        finally:
            print(shown.status(), file=sys.stderr)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        yield SweepDisplay(total, done, live)
