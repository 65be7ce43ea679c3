"""A guest that carries out one order after another, for booting one and importing torch take longer
than many a run.

    with start_series(kernel, folder, ...) as guest:        # in the thread that keeps the guest
        keep(guest, folder, enough)
    with visit(folder, run_folder, 300) as running:         # in any other, one at a time
        while running.status() is None: ...

Both sides see the guest's one writable folder, in which the run folders lie, and beside them

    ready      the guest waits for its first order
    order-N    a run folder, put there whole; N counts from 0
    done-N     the exit status of order N
    guest      the host's process of the guest, which is paused now
    ended      there will be none any more, and why

Nothing that happens on the host can wake a process of the guest, which therefore looks for its next
order again and again. Between two orders it is paused: it takes no CPU, and its clock stands still.
A visit that does not end well ends the guest.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

from testbed.core.errors import GuestLost
from testbed.guest.boot import ClockReading, Guest, read_clock, session_cpu_seconds, start_guest
from testbed.guest.kernel import Kernel
from testbed.runfolder.files import read_plain, replace_text

POLL_S = 0.02
LOOK_S = 0.2
CLOCK, ENDED = "raw/clock", "ended"


@contextmanager
def start_series(
    kernel: Kernel,
    folder: Path,
    python: Sequence[str],
    *,
    memory_bytes: int,
    readable: Sequence[Path],
    environment: Mapping[str, str],
) -> Iterator[Guest]:
    """Boot a guest with a virtual clock that takes orders in the new folder `folder`; `python` runs
    a module.

    Raises:
        MachineError: it cannot be started.
    """
    (folder / "raw").mkdir(parents=True)
    with start_guest(
        kernel,
        [*python, "testbed.execution.inside", "--series", str(folder)],
        writable=folder,
        memory_bytes=memory_bytes,
        clock="virtual",
        console=folder / "console.log",
        clock_file=folder / CLOCK,
        readable=readable,
        environment=dict(environment),
    ) as guest:
        yield guest


def keep(guest: Guest, folder: Path, enough: Event) -> None:
    """Pause the guest when it is ready, and return when it has ended, or it is `enough`."""
    while not (folder / "ready").exists():
        if enough.wait(POLL_S) or guest.process.poll() is not None:
            return
    guest.pause()
    replace_text(folder / "guest", str(guest.process.pid))
    while not enough.wait(LOOK_S) and guest.process.poll() is None:
        pass


@dataclass
class Visit:
    """One order of a series."""

    folder: Path
    pid: int
    number: int
    begin: ClockReading | None = None

    def status(self) -> int | None:
        """None while it is carried out; else its exit status, or -1 when the guest has ended."""
        try:
            return int(read_plain(self.folder / f"done-{self.number}"))
        except (OSError, ValueError):
            return None if _lives(self.pid) else -1

    def clock(self) -> ClockReading | None:
        """The guest's clock, which counts from the order's begin."""
        reading = read_clock(self.folder / CLOCK)
        if reading is None or self.begin is None:
            return reading
        return replace(
            reading,
            time_ns=reading.time_ns - self.begin.time_ns,
            forced_ns=reading.forced_ns - self.begin.forced_ns,
        )

    def cpu_seconds(self) -> float:
        """Host CPU time of the guest since it was booted."""
        return session_cpu_seconds(self.pid)


@contextmanager
def visit(folder: Path, run_folder: Path, patience_s: float) -> Iterator[Visit]:
    """Let the guest of `folder` carry out the run in `run_folder`, below `folder`, as soon as it is
    ready.

    Raises:
        GuestLost: it has ended, or is not ready after `patience_s` of wall time.
    """
    begin = time.monotonic()
    while not (folder / "guest").exists():
        if (folder / ENDED).exists():
            raise GuestLost((folder / ENDED).read_text() or "the guest ended before its first run")
        if time.monotonic() > begin + patience_s:
            raise GuestLost(
                f"the guest was not ready for its first run after {patience_s:.0f} s (--stall-limit)"
            )
        time.sleep(POLL_S)
    pid = int((folder / "guest").read_text())
    number = len(list(folder.glob("order-*")))
    order = Visit(folder, pid, number, read_clock(folder / CLOCK))
    replace_text(folder / f"order-{number}", str(run_folder))
    _signal(pid, signal.SIGCONT)
    try:
        yield order
    finally:
        _signal(pid, signal.SIGKILL if order.status() is None else signal.SIGSTOP)


def series_cpu_seconds(folder: Path) -> float:
    """Host CPU time of the guest of `folder` since it was booted; 0 if there is none."""
    try:
        return session_cpu_seconds(int((folder / "guest").read_text()))
    except (OSError, ValueError):
        return 0.0


def _lives(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
