"""Who works with a folder: a lock that its owner holds open, and what is known about the owner.

The kernel releases the lock when the owner ends, even after a kill or a crash of the machine. A
lock also holds for processes of other PID namespaces and, on a shared file system, of other
machines, for which a process id means nothing. What the file says about the owner is only
information.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from pydantic import BaseModel, ConfigDict

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")
START_FIELD = 19  # of /proc/PID/stat after the program's name: clock ticks from boot to the start
MOST_BYTES = 4096


class Owner(BaseModel):
    """The owner of a lock.

    Attributes:
        pid: process id, in the owner's PID namespace.
        start_ticks: start of the process in clock ticks since the machine's boot.
        boot: identity of the boot of the machine.
        host: name of the host.
        machine: identity of the installation of the system; empty: unknown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    start_ticks: int = 0
    boot: str = ""
    host: str = ""
    machine: str = ""

    @classmethod
    def this_process(cls) -> Owner:
        """Return the owner that this process is."""
        return cls(
            pid=os.getpid(),
            start_ticks=_start_ticks(),
            boot=_text(BOOT_ID),
            host=socket.gethostname(),
            machine=_text(MACHINE_ID),
        )

    def is_of_this_machine(self) -> bool:
        """Return whether the owner lives, or lived before a restart, on this machine."""
        if self.boot == _text(BOOT_ID):
            return True  # possibly in a container with another name
        return (self.host, self.machine) == (socket.gethostname(), _text(MACHINE_ID))

    def __str__(self) -> str:
        return f"process {self.pid} of {self.host}"


def claim(path: Path, *, wait: bool = False) -> BinaryIO:
    """Lock a file, which is created if missing, and write the owner into the file.

    Args:
        path: the file.
        wait: whether to wait until another owner has ended.

    Returns:
        The file; the lock lasts until every process that has inherited the file closes it.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file cannot be opened.
    """
    file = _open(path, os.O_RDWR | os.O_CREAT, "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    with suppress(OSError):  # on a full disk, the lock counts
        content = Owner.this_process().model_dump_json() + "\n"
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), content.encode(), 0)
    return file


def is_claimed(path: Path) -> bool:
    """Return whether any process holds the lock on a file; False if the file does not exist."""
    try:
        with _open(path, os.O_RDONLY, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def owner_of(path: Path) -> Owner | None:
    """Return what a file of `claim` says about its owner; None if unknown."""
    try:
        with _open(path, os.O_RDONLY, "rb") as file:
            return Owner.model_validate_json(file.read(MOST_BYTES))
    except (OSError, ValueError):
        return None


def _open(path: Path, flags: int, mode: str) -> BinaryIO:
    """Open a regular file; a FIFO in its place would keep the command waiting endlessly.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
    """
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return cast(BinaryIO, os.fdopen(opened, mode))


def _start_ticks() -> int:
    text = _text(Path("/proc/self/stat"))
    fields = text.rpartition(")")[2].split()
    return int(fields[START_FIELD]) if len(fields) > START_FIELD else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
