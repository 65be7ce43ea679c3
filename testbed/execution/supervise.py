"""Follow a run from outside: its stages, operations, clock and CPU load."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable

from testbed.core.errors import GuestLost
from testbed.execution.clock_watch import ClockWatch
from testbed.execution.cpu_load import CpuLoad
from testbed.execution.limits import LimitWatch, RunLimits
from testbed.execution.script_watch import ScriptDisplay, ScriptWatch
from testbed.guest.clock import ClockReading
from testbed.runfolder.files import FollowedFile
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import (
    EVENT,
    Event,
    Follower,
    OperationsTotal,
    Record,
    RunEnded,
    StageBegan,
)
from testbed.runfolder.summary import StageRow

BOOT = "boot"
OPERATIONS = "ops"
END = "end"


@runtime_checkable
class Progress(Protocol):
    """Receiver of the progress of a run, such as a display."""

    def building(self, what: str, part: float) -> None:
        """Show that the guest kernel is being built; the fraction `part`, from 0 to 1, is done."""

    def stage(self, name: str) -> None:
        """Show that a stage of the run begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Show that rank 0 has completed `done` of `total` operations or steps (`unit`)."""

    def measured(self) -> None:
        """Show that the tables and the status are written; the report page follows."""


class Running(Protocol):
    """A run in progress."""

    def status(self) -> int | None:
        """Return the exit status; None while the run is in progress."""

    def clock(self) -> ClockReading | None:
        """Return the newest report of a virtual clock; None on the real clock."""

    def cpu_seconds(self) -> float:
        """Return the CPU time in s, to detect a saturated CPU; 0 once the run has ended."""


class Watch:
    """Observer of a run until its end.

    Attributes:
        stages: the completed stages.
        clock: progress of the run's virtual clock.
        load: CPU load during the operations (real clock only).
        forced_ns: time by which the virtual clock was forced forward during the operations.
    """

    def __init__(
        self,
        run: RunDir,
        running: Running,
        limits: RunLimits,
        progress: Progress,
        *,
        of_script: bool = False,
        rank_0: RunDir | None = None,
    ) -> None:
        """Watch a run.

        Args:
            run: the run folder.
            running: the run.
            limits: limits of the run.
            progress: the display.
            of_script: whether the run's workload is a user's script.
            rank_0: the folder with the files of rank 0, whose progress is shown; None: `run`.
        """
        self._script: ScriptWatch | None = None
        if of_script and isinstance(progress, ScriptDisplay):
            self._script = ScriptWatch(run, progress)

        self._run = run
        self._running = running
        self._progress = progress
        self._events: Follower[Record] = Follower(run.events, EVENT)
        self._operations = OperationCount(rank_0 or run, progress)
        self._stage = BOOT
        self._stage_began = time.monotonic()
        self._stage_began_ns: int | None = None
        self._stage_began_forced_ns = 0
        self._operations_began_ns = 0
        self.stages: list[StageRow] = []
        self.clock = ClockWatch(running, limits.stall_s)
        self._limits = LimitWatch(run, limits, progress)
        self.load = CpuLoad(self._cpu_seconds)
        self.forced_ns = 0

    def look(self) -> None:
        """Report new events and operations to the display.

        Raises:
            GuestLost: the clock has stood still for too long, or the clock runs and the stage does
                not end.
            RunError: a limit of the run is reached.
        """
        for event in self._events.new():
            self._relay(event)
        self._operations.look()
        if self._stage == OPERATIONS:
            self.load.sample_if_due()
        try:
            self.clock.look(may_last=self._stage == OPERATIONS)
        except GuestLost as error:
            raise GuestLost(f"{error}{self._limits.newest_stacks()}") from None
        if self._stage == OPERATIONS:
            self._look_at_limits()
        if self._script is not None and self._stage in (OPERATIONS, END):
            self._script.look(self._clock_s())

    def end(self) -> None:
        """Show the rest of what a script has printed."""
        if self._script is not None:
            self._script.end()

    def _clock_s(self) -> float | None:
        """Return the time in s on the run's clock since the ranks began; None on a real clock."""
        reading = self.clock.reading
        if reading is None:
            return None

        return (reading.time_ns - self._operations_began_ns) / 1e9

    def _look_at_limits(self) -> None:
        reading = self.clock.reading
        self._limits.look(
            emulated_ns=self.clock.stage_ns,
            forced_ns=reading.forced_ns if reading is not None else 0,
            stalled_s=self.clock.stalled_s,
            process=self.clock.process,
        )

    def _relay(self, event: Event) -> None:
        if isinstance(event, OperationsTotal):
            self._operations.expect(event.total, event.unit)
        elif isinstance(event, StageBegan):
            self._next_stage(event.stage, event.time_ns)
            self._progress.stage(event.stage)
        elif isinstance(event, RunEnded):
            self._next_stage(END, event.time_ns)

    def _next_stage(self, name: str, time_ns: int) -> None:
        """End the current stage, and record its wall time and its time on the run's clock."""
        now = time.monotonic()
        emulated_seconds = None
        if self._stage_began_ns is not None:
            emulated_seconds = (time_ns - self._stage_began_ns) / 1e9
        ended = StageRow(
            stage=self._stage,
            wall_seconds=round(now - self._stage_began, 3),
            emulated_seconds=emulated_seconds,
        )
        self.stages.append(ended)
        reading = self._running.clock()
        forced_ns = reading.forced_ns if reading is not None else 0
        if self._stage == OPERATIONS:
            self.load.sample()
            self.forced_ns = forced_ns - self._stage_began_forced_ns
        if name == OPERATIONS:
            self.load.begin()
            self._operations_began_ns = 0 if reading is None else reading.time_ns
            if reading is not None:
                self._limits.begin()
        self.clock.begin_stage(name, reading)
        self._stage = name
        self._stage_began = now
        self._stage_began_ns = time_ns
        self._stage_began_forced_ns = forced_ns

    def _cpu_seconds(self) -> float:
        """Return the run's CPU time in s; 0 on a virtual clock, where load does not matter."""
        if self.clock.reading is not None:
            return 0.0
        return self._running.cpu_seconds()


class OperationCount:
    """Counter of the operations or training steps that rank 0 has recorded."""

    def __init__(self, run: RunDir, progress: Progress) -> None:
        self._run = run
        self._progress = progress
        self._records = FollowedFile(run.rank_ops(0))
        self._done = 0
        self._total = 0
        self._unit = "operation"

    def expect(self, total: int, unit: str) -> None:
        """Set the expected number of operations or steps; `unit` is ``operation`` or ``step``."""
        self._total = total
        self._unit = unit
        if unit == "step":
            self._records = FollowedFile(self._run.rank_train(0))

    def look(self) -> None:
        """Report the number of completed operations to the display, once the total is known."""
        if self._total:
            self._done += len(self._records.new_lines())
            self._progress.advance(self._done, self._total, self._unit)
