"""Limits of a run's duration, and the report of what ranks do when a run stands still."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from testbed.core.errors import RunError
from testbed.core.units import format_time
from testbed.plan.model import Plan
from testbed.runfolder.files import FollowedFile, replace_text
from testbed.runfolder.folder import RunDir
from testbed.runfolder.stacks import END, describe, parse_stacks

NS_PER_S = 10**9
STALL_S = 10.0  # wall time without progress after which a stall is reported
ANSWER_S = 30.0  # wall time to wait for stacks before a run is ended
POLL_S = 0.05
LEAST_TIME_LIMIT_S = 7 * 86400
TIMEOUTS = 100  # multiple of the process groups' timeout


@dataclass(frozen=True)
class RunLimits:
    """Limits of a run, in seconds.

    Attributes:
        stall_s: wall time that the virtual clock may stand still.
        time_s: time of the operations on the virtual clock; None: no limit.
        wall_s: wall time of the run, without a build of the kernel; None: no limit.
    """

    stall_s: float
    time_s: float | None = None
    wall_s: float | None = None

    def for_plan(self, plan: Plan) -> RunLimits:
        """Return these limits, with a limit of virtual time that suits the plan."""
        if self.time_s is not None:
            return self
        return replace(self, time_s=default_time_limit_s(plan))


def default_time_limit_s(plan: Plan) -> float:
    """Return a generous limit for the operations on the virtual clock, in seconds.

    The limit leaves time for many operations that time out, and for all events of the topology.
    """
    events_ns = max((change.at_ns for change in plan.network.changes), default=0)
    timeouts_s = TIMEOUTS * plan.workers.timeout_s
    return max(LEAST_TIME_LIMIT_S, timeouts_s) + events_ns / NS_PER_S


@runtime_checkable
class Notices(Protocol):
    """A display that can show messages while a run is in progress."""

    def notice(self, text: str) -> None:
        """Show a message of one or more lines."""


def show_notice(display: object, text: str) -> None:
    """Show a message on a display that can show messages."""
    if isinstance(display, Notices):
        display.notice(text)


class Stacks:
    """The stacks of a run's ranks, asked for and read from outside."""

    def __init__(self, run: RunDir) -> None:
        self._wanted = run.stacks_wanted
        self._answers = FollowedFile(run.stacks, ends=[END.encode()])

    def ask(self) -> None:
        """Ask for the stacks of all ranks; the answer comes as soon as the guest can run."""
        with suppress(OSError):
            replace_text(self._wanted, "")

    def new(self) -> str:
        """Return a line for each rank that has answered since the last call; mostly empty."""
        text = self._answers.new().decode(errors="surrogateescape")
        return describe(parse_stacks(text))

    def answer(self) -> str:
        """Ask for stacks and wait for them; empty if there is no answer in time."""
        self.new()
        self.ask()
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            text = self.new()
            if text:
                return text
            time.sleep(POLL_S)
        return ""


class LimitWatch:
    """Watch over the duration of a run."""

    def __init__(self, run: RunDir, limits: RunLimits, display: object) -> None:
        self._limits = limits
        self._display = display
        self._began = time.monotonic()
        self._stacks = Stacks(run)
        self._has_asked = False
        self._relative = run.stacks.relative_to(run.path)
        self._forced_ns = 0
        self._newest = ""

    def newest_stacks(self) -> str:
        """Return what each rank did when last asked, as the end of a message; empty if unknown."""
        if not self._newest:
            return ""
        return f"\n  what each rank was doing ({self._relative}):\n{self._newest}"

    def begin(self) -> None:
        """Show the time limit as the operations begin."""
        if self._limits.time_s is None:
            return
        limit = format_time(round(self._limits.time_s * NS_PER_S))
        show_notice(self._display, f"time limit on the run's clock: {limit} (--time-limit)")

    def look(self, *, emulated_ns: int, forced_ns: int, stalled_s: float, process: str) -> None:
        """Report a stall once, and end the run at a limit.

        Args:
            emulated_ns: time of the operations so far on the virtual clock; 0 on the real clock.
            forced_ns: the part by which the clock was forced forward.
            stalled_s: wall time since the virtual clock moved by itself.
            process: the process that had the CPU last.

        Raises:
            RunError: a limit is reached; the message says what each rank was doing.
        """
        self._report_stall(stalled_s, forced_ns, process)
        time_s = self._limits.time_s
        if time_s is not None:
            limit_ns = time_s * NS_PER_S
            if emulated_ns > limit_ns:
                limit = format_time(round(limit_ns))
                self._end(f"the run has taken {limit} of its clock (--time-limit)")

        wall_s = self._limits.wall_s
        if wall_s is not None:
            taken_s = time.monotonic() - self._began
            if taken_s > wall_s:
                self._end(f"the run has taken {wall_s:g} s of wall time (--wall-limit)")

    def _report_stall(self, stalled_s: float, forced_ns: int, process: str) -> None:
        if stalled_s < STALL_S:
            self._has_asked = False
            self._forced_ns = forced_ns
            return
        if not self._has_asked:
            self._has_asked = True
            text = (
                f"the virtual clock has not moved for {stalled_s:.0f} s: {process} is computing, "
                "or waits in a loop"
            )
            show_notice(self._display, text)
            return
        # Ranks that merely compute are left alone: an answer takes virtual time.
        if forced_ns > self._forced_ns:
            self._forced_ns = 2**63
            self._stacks.ask()
        stacks = self._stacks.new()
        if stacks:
            self._newest = stacks
            show_notice(self._display, f"what each rank does ({self._relative}):\n{stacks}")

    def _end(self, reason: str) -> None:
        """End the run.

        Raises:
            RunError: always.
        """
        stacks = self._stacks.answer()
        if stacks:
            reason += f"; what each rank was doing ({self._relative}):\n{stacks}"
        raise RunError(f"{reason}\n  the results so far were kept")
