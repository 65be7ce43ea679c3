"""Watch the virtual clock of a guest: detect a stall and the process that causes the stall."""

from __future__ import annotations

import time
from typing import Protocol

from testbed.core.errors import GuestLost
from testbed.guest.clock import ClockReading

# A smaller gain counts as standing still: each read of the clock in a loop advances the clock by
# 1 us.
LEAST_PROGRESS_NS = 10**6
# Limit on the guest's clock for a stage before the operations; such a stage takes 3 s at most.
LONGEST_STAGE_NS = 3600 * 10**9
SURE_S = 1.0  # no CPU time is recorded if the clock has moved within this time
BUSY_PART = (
    0.1  # share of a CPU that a guest uses at least while a process computes, on a busy machine
)


class WatchedGuest(Protocol):
    """A guest with a clock."""

    def clock(self) -> ClockReading | None:
        """Return the newest clock report."""

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, in s."""


class ClockWatch:
    """Watch over a virtual clock; ignores a real clock.

    Attributes:
        reading: the newest report; None before the first.
        spinner: the process for which the clock was last forced forward; empty if there was none.
    """

    def __init__(self, guest: WatchedGuest, stall_limit_s: float) -> None:
        self._guest = guest
        self._stall_limit_s = stall_limit_s
        self._stage = "boot"
        self._stage_began_ns = 0
        self._moved_at = time.monotonic()
        self._moved_at_cpu_s = 0.0
        self._moved_to_ns = -LEAST_PROGRESS_NS
        self._moved_to_forced_ns = 0
        self.reading: ClockReading | None = None
        self.spinner = ""

    @property
    def stage_ns(self) -> int:
        """Virtual time since the stage began; 0 on the real clock."""
        if self.reading is None:
            return 0
        return self.reading.time_ns - self._stage_began_ns

    @property
    def stalled_s(self) -> float:
        """Wall time since the virtual clock last moved by itself; 0 on the real clock."""
        if self.reading is None:
            return 0.0
        return time.monotonic() - self._moved_at

    @property
    def process(self) -> str:
        """The process that had the CPU of the guest last, for people."""
        return "" if self.reading is None else _name_of(self.reading)

    def begin_stage(self, name: str, reading: ClockReading | None) -> None:
        """Start to watch a stage.

        Args:
            name: the name of the stage.
            reading: the clock at the beginning of the stage.
        """
        self._stage = name
        self._stage_began_ns = reading.time_ns if reading is not None else 0

    def look(self, *, may_last: bool) -> None:
        """Read the clock and check that the clock makes progress.

        Args:
            may_last: whether the current stage may take any amount of time.

        Raises:
            GuestLost: the clock has stood still for too long, or the clock runs and the stage does
                not end.
        """
        reading = self._guest.clock()
        if reading is None:
            return
        before = self.reading
        self.reading = reading
        if before is not None and reading.forced_ns > before.forced_ns:
            self.spinner = _name_of(reading)
        self._check_progress(reading)
        stage_ns = reading.time_ns - self._stage_began_ns
        if not may_last and stage_ns > LONGEST_STAGE_NS:
            raise GuestLost(
                f"the stage {self._stage} has not ended after an hour of the guest's clock: "
                "it waits for an event that does not occur; a process of the guest may have been "
                "killed"
            )

    def _check_progress(self, reading: ClockReading) -> None:
        now = time.monotonic()
        exact_ns = reading.time_ns - reading.forced_ns
        if exact_ns >= self._moved_to_ns + LEAST_PROGRESS_NS:
            if now - self._moved_at > SURE_S:
                self._moved_at_cpu_s = self._guest.cpu_seconds()
            self._moved_at = now
            self._moved_to_ns = exact_ns
            self._moved_to_forced_ns = reading.forced_ns
        stalled_s = now - self._moved_at
        if stalled_s > self._stall_limit_s:
            raise GuestLost(self._describe_stall(reading, stalled_s))

    def _describe_stall(self, reading: ClockReading, stalled_s: float) -> str:
        cpu_s = self._guest.cpu_seconds() - self._moved_at_cpu_s
        cause = "the guest hangs"
        has_spun = reading.forced_ns > self._moved_to_forced_ns
        if has_spun or cpu_s > stalled_s * BUSY_PART:
            process = _name_of(reading)
            cause = f"{process} is computing, or is busy-waiting for a point in time"
        return (
            f"the guest's clock did not move for {stalled_s:.0f} s: {cause}\n"
            "  the run was aborted and its results so far were kept; if the computation needs "
            "more time, raise --stall-limit"
        )


def _name_of(reading: ClockReading) -> str:
    return f"{reading.command} (pid {reading.pid}) on {reading.host}"
