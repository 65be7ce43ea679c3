"""Run a resident guest, which carries out several runs in sequence.

For short runs, booting a guest and importing torch would take longer than the run.

    with start_resident(spec) as guest:                    # in the thread that owns the guest
        keep_resident(guest, stop)
    with order_run(folder, run_folder, 300) as running:    # in any other thread, one at a time
        while running.status() is None: ...

Both sides see the guest's only writable folder, which contains the run folders and these files:

    orders/    requests and replies (see testbed.guest.orders), one at a time
    ready      the guest accepts orders
    guest      process id, on the host, of the guest, which is now paused
    ended      no more replies will follow; contains the reason, if there is one

Between two orders the guest is paused: the guest uses no CPU, and its clock stands still. A failed
order ends the guest.
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
    """Return the file in which the resident guest of `folder` reports its clock."""
    return folder / "raw/clock"


@contextmanager
def start_resident(spec: GuestSpec) -> Iterator[Guest]:
    """Boot a guest that accepts orders in its writable folder; create the folder.

    Raises:
        MachineError: the guest cannot be started.
    """
    (spec.writable / "raw").mkdir(parents=True)
    orders_of(spec.writable).folder.mkdir()
    with start_guest(spec) as guest:
        yield guest


def keep_resident(guest: Guest, stop: Event) -> None:
    """Pause the guest once the guest is ready; return when the guest has ended or `stop` is set."""
    while not (guest.writable / READY).exists():
        if stop.wait(POLL_S) or guest.process.poll() is not None:
            return
    guest.pause()
    replace_text(guest.writable / GUEST, str(guest.process.pid))
    while not stop.wait(END_POLL_S) and guest.process.poll() is None:
        pass


@dataclass
class OrderedRun:
    """A run in progress in a resident guest.

    Attributes:
        pid: process id of the guest on the host.
        clock_file: the file in which the guest reports its clock.
        exchange: the order.
        begin: the guest's clock at the start of the order.
    """

    pid: int
    clock_file: Path
    exchange: Exchange[RunOrder, RunReply]
    begin: ClockReading | None

    def status(self) -> int | None:
        """Return the exit status; None while the run is in progress, -1 if the guest has ended."""
        alive = is_running(self.pid)
        reply = self.exchange.reply()
        if reply is not None:
            return reply.status
        return None if alive else -1

    def clock(self) -> ClockReading | None:
        """Return the newest clock report of the guest, counted from the start of the order."""
        reading = read_clock(self.clock_file)
        if reading is None or self.begin is None:
            return reading
        return replace(
            reading,
            time_ns=reading.time_ns - self.begin.time_ns,
            forced_ns=reading.forced_ns - self.begin.forced_ns,
        )

    def cpu_seconds(self) -> float:
        """Return the CPU time in s that the guest has used on the host since boot."""
        return session_cpu_seconds(self.pid)


@contextmanager
def order_run(folder: Path, run_folder: Path, patience_s: float) -> Iterator[OrderedRun]:
    """Carry out a run in a resident guest within the block, as soon as the guest is ready.

    Args:
        folder: the guest's folder.
        run_folder: the folder of the run, below `folder`.
        patience_s: wall time to wait for the guest to become ready.

    Raises:
        GuestLost: the guest has ended, or did not become ready in time.
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
    """Return the CPU time in s of the guest in `folder` since boot; 0 without a guest."""
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
