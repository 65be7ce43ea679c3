"""Follows a running command from outside: its stages and operations, its clock, and whether it
still gets on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from testbed.core.errors import GuestLost
from testbed.guest.boot import ClockReading
from testbed.runfolder.folder import RecordFollower, RunDir

CPU_SAMPLE_S = 0.5
LEAST_PROGRESS_NS = (
    10**6
)  # a clock that gains less stands still: each time that a loop reads it, it moves by 256 ns
LONGEST_STAGE_NS = (
    3600 * 10**9
)  # of the guest's clock, for a stage before the operations; they take 3 s at most


class Progress(Protocol):
    """What a display can be told while a run goes on."""

    def building(self, what: str, part: float) -> None:
        """The guest kernel is built; `part` from 0 to 1 is done."""

    def stage(self, name: str) -> None:
        """A stage of the run begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Of `total` operations or steps (`unit`) that rank 0 records, `done` are done."""

    def measured(self) -> None:
        """The tables and the status are written; the page is still to come."""


class Running(Protocol):
    """The command of a run, in a guest or here."""

    def status(self) -> int | None:
        """None while it runs; else its exit status."""

    def clock(self) -> ClockReading | None:
        """The newest report of a virtual clock."""

    def cpu_seconds(self) -> float:
        """CPU time that counts for whether the CPU was the limit; 0 once the command has ended."""


@dataclass(frozen=True)
class _Stage:
    """The present stage, and where the clocks stood when it began."""

    name: str
    begin: float
    cpu: float = 0.0  # see Watch._cpu_seconds
    time_ns: int | None = None
    clock_ns: int = 0  # of the guest's kernel
    forced_ns: int = 0
    steal: float = 0.0  # see _steal_seconds


class Watch:
    """Follows a guest from outside: its stages, its operations, its clock."""

    def __init__(
        self, run: RunDir, guest: Running, stall_limit_s: float, progress: Progress
    ) -> None:
        self._guest, self._progress = guest, progress
        self._stall_limit_s = stall_limit_s
        self._events = RecordFollower(run.events)
        self._run = run
        self._counted = RecordFollower(run.rank_ops(0))
        self._done = self._total = 0
        self._unit = "operation"
        self._moved = time.monotonic()
        self._stage = _Stage("boot", self._moved)
        self._moved_at_cpu, self._moved_to_ns = 0.0, -LEAST_PROGRESS_NS
        self._sampled = self._moved
        self.stages: list[dict[str, Any]] = []
        self.reading: ClockReading | None = None
        self.spinner = ""
        # part of the operations' wall time in which the guest computed or waited for the CPU
        self.busy = 0.0
        self.steal = 0.0  # part of it that the host of this machine kept its CPUs for others
        self.forced_ns = 0  # virtual time forced on during the operations

    def look(self) -> None:
        """Relay what is new.

        Raises:
            GuestLost: the clock has stood still for too long, or runs and nothing happens.
        """
        for event in self._events.new():
            self._relay(event)
        if self._total:
            self._done += len(self._counted.new())
            self._progress.advance(self._done, self._total, self._unit)
        if self._stage.name == "ops" and time.monotonic() - self._sampled >= CPU_SAMPLE_S:
            self._sample_cpu(self._cpu_seconds())
        reading = self._guest.clock()
        if reading is not None:
            self._check_clock(reading)

    def _cpu_seconds(self) -> float:
        """Of the guest, and those in which programs of this machine waited for a CPU, for it may
        have been one.

        0 if the guest has ended, and on a virtual clock, whose figures do not depend on it.
        """
        guest = self._guest.cpu_seconds() if self.reading is None else 0.0
        return guest + _cpu_pressure_seconds() if guest else 0.0

    def _sample_cpu(self, cpu: float) -> None:
        """How busy the CPU has been since the operations began; as before, if the guest has
        ended.
        """
        self._sampled = time.monotonic()
        if cpu:
            seconds = max(self._sampled - self._stage.begin, 1e-3)
            self.busy = (cpu - self._stage.cpu) / seconds
            self.steal = (_steal_seconds() - self._stage.steal) / seconds

    def _relay(self, event: dict[str, Any]) -> None:
        if event["state"] == "total":
            self._total, self._unit = event["total"], event["unit"]
            if self._unit == "step":
                self._counted = RecordFollower(self._run.rank_train(0))
        elif event["state"] == "begin":
            self._next_stage(event["stage"], event["time_ns"])
            self._progress.stage(event["stage"])
        elif event["stage"] == "run":
            self._next_stage("end", event["time_ns"])

    def _next_stage(self, name: str, time_ns: int) -> None:
        """Close the present stage: its wall time, its time on the run's clock, and how busy the CPU
        was.
        """
        now, old, cpu = time.monotonic(), self._stage, self._cpu_seconds()
        wall = now - old.begin
        emulated = None if old.time_ns is None else (time_ns - old.time_ns) / 1e9
        self.stages.append(
            {"stage": old.name, "wall_seconds": round(wall, 3), "emulated_seconds": emulated}
        )
        clock_ns, forced_ns = (
            (reading.time_ns, reading.forced_ns) if (reading := self._guest.clock()) else (0, 0)
        )
        if old.name == "ops":
            self._sample_cpu(cpu)
            self.forced_ns = forced_ns - old.forced_ns
        self._stage = _Stage(name, now, cpu, time_ns, clock_ns, forced_ns, _steal_seconds())

    def _check_clock(self, reading: ClockReading) -> None:
        old = self.reading
        self.reading = reading
        now = time.monotonic()
        exact_ns = reading.time_ns - reading.forced_ns
        if exact_ns >= self._moved_to_ns + LEAST_PROGRESS_NS:
            self._moved_at_cpu = (
                self._guest.cpu_seconds() if now - self._moved > 1 else self._moved_at_cpu
            )
            self._moved, self._moved_to_ns = now, exact_ns
        if old is not None and reading.forced_ns > old.forced_ns:
            self.spinner = f"{reading.command} (pid {reading.pid}) on {reading.host}"
        if now - self._moved > self._stall_limit_s:
            raise GuestLost(self._stalled(reading, now - self._moved))
        if self._stage.name != "ops" and reading.time_ns - self._stage.clock_ns > LONGEST_STAGE_NS:
            raise GuestLost(
                f"the stage {self._stage.name} has not ended after an hour of the guest's clock: it waits for something"
                " that does not come; a process of the guest may have been killed"
            )

    def _stalled(self, reading: ClockReading, seconds: float) -> str:
        cpu = self._guest.cpu_seconds() - self._moved_at_cpu
        who = f"{reading.command} (pid {reading.pid}) on {reading.host}"
        what = (
            f"{who} computes, or waits in a loop for what only time brings"
            if cpu > seconds / 2
            else "the guest hangs"
        )
        return (
            f"the guest's clock stood still for {seconds:.0f} s: {what}\n"
            "  the run was ended, its results so far are kept; if the computation is meant to take so long, "
            "raise --stall-limit"
        )


def _cpu_pressure_seconds() -> float:
    """Time in which some process of this machine waited for a CPU (pressure stall information,
    Linux 4.20).
    """
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


def _steal_seconds() -> float:
    """Time that the host of this machine kept a CPU of it for others, on average over its CPUs
    (proc(5): steal).
    """
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
