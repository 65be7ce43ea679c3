"""The file in which a guest's kernel reports its virtual clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from testbed.runfolder.files import open_plain

# virtual time, forced part of it, (not used here), process, its host, its command
REPORT = re.compile(r"(\d+) (\d+) \d+ (-?\d+) (\S+) (.*)")


@dataclass(frozen=True)
class ClockReading:
    """The guest kernel's last report: its clock, and the process that had the CPU.

    Attributes:
        time_ns: virtual time since the guest was booted.
        forced_ns: the part of it by which the clock was forced forward, as a process busy-waited.
        pid: that process, by the guest's numbers.
        host: the name of the node that the process belongs to.
        command: the name of the process.
    """

    time_ns: int
    forced_ns: int
    pid: int
    host: str
    command: str


def read_clock(path: Path) -> ClockReading | None:
    """Read what a guest's kernel has reported in `path`; None if it has not yet."""
    try:
        with open_plain(path) as file:
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    report = REPORT.match(text)
    if report is None:
        return None
    time_ns, forced_ns, pid, host, command = report.groups()
    return ClockReading(int(time_ns), int(forced_ns), int(pid), host, command.strip())
