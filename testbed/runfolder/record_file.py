"""Write records line by line, to a file or to the named pipe that stands for the file on a host.

On a host of a run, records go through pipes (`testbed.workers.collector`), which are emptied every
50 ms of the run's clock. A pipe that is full before must not hold up a rank, whose clock would
advance: the writer asks for room through the pipe of events, which is emptied at once.
"""

from __future__ import annotations

import fcntl
import os
import select
from io import FileIO
from pathlib import Path

from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import Record

HIGH_NUMBER = 900  # below 1024, the usual limit of a process
BELL = b"\n"  # a line without a record


class RecordFile:
    """An open file of records, to which threads and forks of a process may write."""

    def __init__(self, run: RunDir, path: Path) -> None:
        """Open a file of a run folder for appending, and create it if it is missing.

        Args:
            run: the run folder.
            path: the file, or the pipe in its place.

        Raises:
            OSError: the file cannot be opened.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._events = run.events
        # unbuffered: a line is one write, from any thread
        self._file = FileIO(_with_high_number(os.open(path, flags, 0o644)), "ab")

    def claim(self) -> bool:
        """Claim the file until this process ends; return whether no other process has it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, record: Record) -> None:
        """Append a record, which survives a later crash of the rank.

        A line is one write; only a line of more than a page may be divided, if the pipe is full.
        """
        rest = record.to_line().encode()
        while rest:
            written = self._file.write(rest)
            if written is None:  # the pipe is full
                self._make_room()
            else:
                rest = rest[written:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _make_room(self) -> None:
        """Have the full pipe emptied, and wait for that."""
        with self._events.open("ab", buffering=0) as events:
            events.write(BELL)
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        poll.poll()


def _with_high_number(fd: int) -> int:
    """Return the open file with a number that leaves the low ones to a script, as usual."""
    try:
        number = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH_NUMBER)
    except OSError:  # the limit is lower
        return fd
    os.close(fd)
    return number
