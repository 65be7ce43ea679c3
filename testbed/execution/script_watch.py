"""Follow a user's script from outside: what rank 0 prints, its operations, and its steps."""

from __future__ import annotations

import time
import unicodedata
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol, runtime_checkable

from testbed.runfolder.files import FollowedFile
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Follower, Operation
from testbed.runfolder.stacks import AnsweredStacks

SHOWN_EVERY_S = 1.0  # of wall time
RATE_SPAN = 10  # number of showings over which steps per second are counted
CHUNK_BYTES = 1 << 20
ENDS_OF_LINE = (b"\n", b"\r")  # progress bars end with a carriage return
OPERATIONS_KEPT = 5000  # for finding the loop
# Categories of characters on which terminals may act: controls, formats, surrogates, separators.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class ScriptProgress:
    """How far a user's script has come.

    Attributes:
        clock_s: seconds on the run's clock since the ranks began; None on the real clock.
        operations: number of operations that rank 0 has completed.
        steps: number of steps of rank 0's loop; None: no loop was found.
        steps_per_s: steps per second of wall time; None: not known.
    """

    clock_s: float | None
    operations: int
    steps: int | None = None
    steps_per_s: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.steps is not None:
            parts.append(f"{self.steps} steps")
        elif self.operations:
            parts.append(f"{self.operations} operations")

        if self.steps_per_s is not None:
            parts.append(f"{self.steps_per_s:.3g} steps/s")
        if self.clock_s is not None:
            parts.append(f"{self.clock_s:.3f} s on the run's clock")

        return ", ".join(parts)


@runtime_checkable
class ScriptDisplay(Protocol):
    """Receiver of the progress of a run that also shows a user's script while it runs."""

    def output(self, line: str) -> None:
        """Show a line that rank 0 has printed."""

    def script(self, progress: ScriptProgress) -> None:
        """Show how far the script has come; called each second of wall time."""


class ScriptWatch:
    """Observer of a script that runs."""

    def __init__(self, run: RunDir, display: ScriptDisplay) -> None:
        self._display = display
        self._output = FollowedFile(run.rank_log(0), ends=ENDS_OF_LINE, most_bytes=CHUNK_BYTES)
        self._stacks = AnsweredStacks()
        self._operations: Follower[Operation] = Follower(run.rank_ops(0), Operation)
        self._kinds: deque[tuple[object, ...]] = deque(maxlen=OPERATIONS_KEPT)
        self._count = 0
        self._before_loop = 0  # operations
        self._period = 0  # operations of a step
        self._shown_at = time.monotonic()
        self._steps: deque[tuple[float, int]] = deque(maxlen=RATE_SPAN)

    def look(self, clock_s: float | None) -> None:
        """Show new output, and the progress if a second has passed.

        Args:
            clock_s: seconds on the run's clock since the ranks began; None on the real clock.
        """
        self._show(self._output.new_lines())
        now = time.monotonic()
        if now - self._shown_at >= SHOWN_EVERY_S:
            self._shown_at = now
            self._display.script(self._progress(now, clock_s))

    def end(self) -> None:
        """Show the rest of the output."""
        self._show([*self._output.new_lines(), self._output.rest()])

    def _show(self, lines: Iterable[bytes]) -> None:
        """Show the lines that the program has printed and that are not empty."""
        for line in lines:
            text = line.decode(errors="replace")
            if text and not self._stacks.has(text):
                self._display.output(visible(text))

    def _progress(self, now: float, clock_s: float | None) -> ScriptProgress:
        from testbed.analysis.loop import KIND, find_loop  # noqa: PLC0415 (slow to import)

        kind_of = attrgetter(*KIND)
        for operation in self._operations.new():
            self._count += 1
            self._kinds.append(kind_of(operation))

        loop = find_loop(self._kinds)
        if loop is None:
            return ScriptProgress(clock_s, self._count)

        if len(self._kinds) == self._count:
            self._before_loop = loop.start

        steps = (self._count - self._before_loop) // loop.period
        if loop.period != self._period:  # what was counted before were other steps
            self._period = loop.period
            self._steps.clear()

        self._steps.append((now, steps))
        began, first = self._steps[0]
        rate = (steps - first) / (now - began) if now > began else None
        return ScriptProgress(clock_s, self._count, steps, rate)


def visible(text: str) -> str:
    """Return a text in which characters that act on terminals are written as escapes."""
    letters = []
    for letter in text:
        seen = letter == "\t" or unicodedata.category(letter) not in UNSEEN
        letters.append(letter if seen else letter.encode("unicode_escape").decode())

    return "".join(letters)
