"""Choose the CPUs of this machine on which a guest runs.

A guest's kernel and its processes take turns. On one CPU each turn is a switch between programs. On
two CPUs both sides look for their turn in memory, and a system call takes half as long.

So each guest has a separate CPU, if there is one, and borrows a second one for its processes while
no other guest has that one. More guests than CPUs share CPUs. Left to the scheduler, kernel and
processes would move between CPUs, which makes each turn three times as long.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from testbed.core.paths import cache_dir

MOST_GUESTS = 100  # of a CPU
# struct flock: type, whence, start, length, pid; the lock is on the whole file.
WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True)
class GuestCpus:
    """CPUs of a guest.

    Attributes:
        kernel: the CPU of the guest's kernel; None: any.
        processes: another CPU for the guest's processes; None: that of the kernel.
        owned: descriptor of the file that is locked while `processes` is another guest's own CPU.
    """

    kernel: int | None
    processes: int | None = None
    owned: int | None = None

    def prefix(self) -> list[str]:
        """Return the words that start a command on the kernel's CPU."""
        return [] if self.kernel is None else ["taskset", "--cpu-list", str(self.kernel)]

    def arguments(self) -> list[str]:
        """Return the arguments by which the kernel uses the CPU of the processes."""
        if self.processes is None:
            return []
        return [f"stub-cpu={self.processes},{self.owned}"]

    def descriptors(self) -> list[int]:
        """Return the descriptors that the kernel must inherit."""
        return [] if self.owned is None else [self.owned]


@contextmanager
def reserve_cpus(cpu: int | None, *, borrows: bool) -> Iterator[GuestCpus]:
    """Reserve CPUs for a guest for the duration of the block.

    Args:
        cpu: the kernel's CPU, possibly shared with other guests; None: a CPU that no other guest
            has as its own, preferably one that no guest has borrowed, else the CPU of the fewest
            guests.
        borrows: whether the guest may borrow another CPU for its processes; never from a shared
            CPU.
    """
    if cpu is not None:
        yield GuestCpus(cpu)
        return
    folder = cache_dir() / "cpus"
    folder.mkdir(exist_ok=True)
    with ExitStack() as held:
        own = _own(folder, held)
        if own is None:
            yield GuestCpus(_share(folder, held))
            return
        lent = _borrow(folder, own, held) if borrows else None
        if lent is None:
            yield GuestCpus(own)
            return
        # The lock is on another description of the file than that by which the kernel sees it.
        owned = held.enter_context(_file(folder, lent).open("r+"))
        yield GuestCpus(own, processes=lent, owned=owned.fileno())


def _own(folder: Path, held: ExitStack) -> int | None:
    """Reserve a CPU that no other guest has as its own, until `held` is closed."""
    lent: list[int] = []
    for cpu in _cpus():
        if _is_lent(folder, cpu):
            lent.append(cpu)
        elif _reserve(_file(folder, cpu), held):
            return cpu
    for cpu in lent:
        if _reserve(_file(folder, cpu), held):
            return cpu
    return None


def _share(folder: Path, held: ExitStack) -> int | None:
    """Reserve a part of the CPU that has the fewest guests, until `held` is closed."""
    for place in range(1, MOST_GUESTS):
        for cpu in _cpus():
            if _reserve(folder / f"{cpu}-guest-{place}", held):
                return cpu
    return None


def _borrow(folder: Path, own: int, held: ExitStack) -> int | None:
    """Reserve a CPU for processes that no guest has or has borrowed, until `held` is closed."""
    for cpu in _cpus():
        if cpu == own or _is_owned(folder, cpu):
            continue
        if _reserve(_lent_file(folder, cpu), held):
            return cpu
    return None


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0), reverse=True)


def _file(folder: Path, cpu: int) -> Path:
    return folder / str(cpu)


def _lent_file(folder: Path, cpu: int) -> Path:
    return folder / f"{cpu}-processes"


def _is_owned(folder: Path, cpu: int) -> bool:
    return _is_locked(_file(folder, cpu))


def _is_lent(folder: Path, cpu: int) -> bool:
    return _is_locked(_lent_file(folder, cpu))


def _is_locked(path: Path) -> bool:
    with path.open("a+") as file:
        lock = fcntl.fcntl(file, fcntl.F_OFD_GETLK, WHOLE_FILE)
    return bool(struct.unpack_from("h", lock)[0] != fcntl.F_UNLCK)


def _reserve(path: Path, held: ExitStack) -> bool:
    """Lock a file until `held` is closed; return whether no other process had locked it."""
    file: IO[str] = path.open("a+")
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, WHOLE_FILE)
    except BlockingIOError:
        file.close()
        return False
    held.enter_context(file)
    return True
