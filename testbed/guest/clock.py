"""Read the file in which a guest's kernel reports its virtual clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from testbed.runfolder.files import open_plain

LONGEST_REPORT = 4096  # bytes
# Virtual time, forced part of the virtual time, (unused here), process, host, command.
REPORT = re.compile(r"(\d+) (\d+) \d+ (-?\d+) (\S+) (.*)")


@dataclass(frozen=True)
class ClockReading:
    """A clock report of the guest kernel, with the process that was running.

    Attributes:
        time_ns: virtual time since the guest was booted.
        forced_ns: the part of `time_ns` by which the clock was forced forward because a process
            busy-waited.
        pid: process id of the running process, inside the guest.
        host: the name of the node that the process belongs to.
        command: the name of the process.
    """

    time_ns: int
    forced_ns: int
    pid: int
    host: str
    command: str


def read_clock(path: Path) -> ClockReading | None:
    """Return the last clock report that a guest's kernel wrote to `path`; None before the first."""
    try:
        with open_plain(path) as file:
            text = file.read(LONGEST_REPORT).decode(errors="replace")
    except OSError:
        return None
    report = REPORT.match(text)
    if report is None:
        return None
    time_ns, forced_ns, pid, host, command = report.groups()
    return ClockReading(int(time_ns), int(forced_ns), int(pid), host, command.strip())
