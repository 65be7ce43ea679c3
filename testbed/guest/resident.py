"""A resident guest: it carries out one run after another.

Booting a guest and importing torch take longer than many a run.

    with start_resident(spec) as guest:                    # in the thread that keeps the guest
        keep_resident(guest, stop)
    with order_run(folder, run_folder, 300) as running:    # in any other, one at a time
        while running.status() is None: ...

Both sides see the guest's one writable folder, in which the run folders lie, and besides

    orders/    requests and replies (see testbed.guest.orders), one at a time
    ready      the guest waits for its first order
    guest      the host's process of the guest, which is paused now
    ended      there will be no more replies; holds the reason, if there is one

Between two orders the guest is paused: it takes no CPU, and its clock stands still. An order that
does not end well ends the guest.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from testbed.core.errors import GuestLost
from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.channel import Exchange
from testbed.guest.clock import ClockReading, read_clock
from testbed.guest.orders import READY, RunOrder, RunReply, orders_of
from testbed.guest.session import is_running, session_cpu_seconds
from testbed.runfolder.files import replace_text

POLL_S = 0.02
END_POLL_S = 0.2
GUEST = "guest"
ENDED = "ended"


def clock_file(folder: Path) -> Path:
    """Give the file in which the resident guest of `folder` reports its clock."""
    return folder / "raw/clock"


@contextmanager
def start_resident(spec: GuestSpec) -> Iterator[Guest]:
    """Boot a guest that takes orders in its writable folder, which is made.

    Raises:
        MachineError: the guest cannot be started.
    """
    (spec.writable / "raw").mkdir(parents=True)
    orders_of(spec.writable).folder.mkdir()
    with start_guest(spec) as guest:
        yield guest


def keep_resident(guest: Guest, stop: Event) -> None:
    """Pause the guest when it is ready; return when it has ended, or `stop` is set."""
    while not (guest.writable / READY).exists():
        if stop.wait(POLL_S) or guest.process.poll() is not None:
            return
    guest.pause()
    replace_text(guest.writable / GUEST, str(guest.process.pid))
    while not stop.wait(END_POLL_S) and guest.process.poll() is None:
        pass


@dataclass
class OrderedRun:
    """A run that a resident guest carries out.

    Attributes:
        pid: the host's process of the guest.
        clock_file: where the guest reports its clock.
        exchange: the order.
        begin: the guest's clock when it was given the order.
    """

    pid: int
    clock_file: Path
    exchange: Exchange[RunOrder, RunReply]
    begin: ClockReading | None

    def status(self) -> int | None:
        """Give the exit status of the run, None while it goes on, -1 if the guest has ended."""
        alive = is_running(self.pid)
        reply = self.exchange.reply()
        if reply is not None:
            return reply.status
        return None if alive else -1

    def clock(self) -> ClockReading | None:
        """Give the newest report of the guest's clock, which counts from the order's begin."""
        reading = read_clock(self.clock_file)
        if reading is None or self.begin is None:
            return reading
        return replace(
            reading,
            time_ns=reading.time_ns - self.begin.time_ns,
            forced_ns=reading.forced_ns - self.begin.forced_ns,
        )

    def cpu_seconds(self) -> float:
        """Give the host's CPU time for the guest since it was booted."""
        return session_cpu_seconds(self.pid)


@contextmanager
def order_run(folder: Path, run_folder: Path, patience_s: float) -> Iterator[OrderedRun]:
    """Let a resident guest carry out a run within the block, as soon as the guest is ready.

    Args:
        folder: the guest's folder.
        run_folder: the folder of the run, below `folder`.
        patience_s: wall time after which a guest that is not ready is given up.

    Raises:
        GuestLost: the guest has ended, or is not ready in time.
    """
    _await_guest(folder, patience_s)
    pid = int((folder / GUEST).read_text())
    begin = read_clock(clock_file(folder))
    exchange = orders_of(folder).post(RunOrder(run_folder=str(run_folder)))
    order = OrderedRun(pid, clock_file(folder), exchange, begin)
    _signal(pid, signal.SIGCONT)
    try:
        yield order
    finally:
        if order.status() is None:
            _signal(pid, signal.SIGKILL)
        else:
            _signal(pid, signal.SIGSTOP)
        exchange.remove()


def resident_cpu_seconds(folder: Path) -> float:
    """Give the host's CPU time for the guest of `folder` since it was booted; 0 without a guest."""
    try:
        pid = int((folder / GUEST).read_text())
    except (OSError, ValueError):
        return 0.0
    return session_cpu_seconds(pid)


def _await_guest(folder: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    ended = folder / ENDED
    while not (folder / GUEST).exists():
        if ended.exists():
            raise GuestLost(ended.read_text() or "the guest ended before its first run")
        if time.monotonic() > deadline:
            raise GuestLost(
                f"the guest was not ready for its first run after {patience_s:.0f} s "
                "(--stall-limit)"
            )
        time.sleep(POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
