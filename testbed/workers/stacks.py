"""Ask the ranks of a run for their Python stacks, by a signal that no program uses.

The zygote registers the handler, so a rank has it from its first instruction on, and registering
costs a rank no time. The handler runs without the interpreter's lock: it also answers in a loop of
Python, and in code in C that holds the lock. The stacks go to standard error, the rank's log.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from testbed.runfolder.files import LONGEST_END

SIGNAL = getattr(signal, "SIGRTMIN", 34) + 11  # macOS imports this file, and has no SIGRTMIN
STDERR = 2
PAUSE_S = 0.001  # on the run's clock, which a busy rank holds until the kernel forces the clock
MOST_PAUSES = 100
LOG = re.compile(r"(?:/jobs/([^/]+)/logs)?/rank-(\d+)\.log$")
STATES = {"R": "running", "S": "waiting", "D": "waiting", "T": "stopped", "Z": "ended"}


def answer_requests() -> None:
    """Print the stacks of all threads of this process, and of forks, on each request."""
    faulthandler.register(SIGNAL, file=STDERR, all_threads=True, chain=False)


def request_stacks(processes: Sequence[int]) -> list[int]:
    """Ask processes for their stacks; return the processes that will answer."""
    answering = []
    for pid in processes:
        if not _answers(pid):
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, SIGNAL)
            answering.append(pid)
    return answering


def _answers(pid: int) -> bool:
    """Return whether a process has a handler, without which the signal would end the process."""
    try:
        text = Path("/proc", str(pid), "status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return bool(int(fields.get("SigCgt", "0"), 16) >> (SIGNAL - 1) & 1)


def rank_of(pid: int) -> tuple[str, int] | None:
    """Return the rank whose log is the error output of a process; None for other processes.

    Returns:
        The name of one of several jobs, or an empty text, and the number of the rank.
    """
    try:
        target = str(Path("/proc", str(pid), "fd", str(STDERR)).readlink())
    except OSError:
        return None
    match = LOG.search(target)
    return (match[1] or "", int(match[2])) if match else None


def state_of(pid: int) -> str:
    """Describe a process: its name, its id and whether it is running or waiting."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return f"process {pid} has ended"
    name = text[text.index("(") + 1 : text.rindex(")")]
    letter = text[text.rindex(")") + 2]
    return f"{name} (process {pid}) is {STATES.get(letter, letter)}"


class Logs:
    """The logs of ranks from a point in time on."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        """Remember the present size of the log of each rank."""
        self._files = files
        self._begins = {rank: _size(file) for rank, file in files.items()}

    def await_growth(self, ranks: Sequence[int]) -> None:
        """Give the ranks time to answer, until all have written or the patience is exhausted."""
        for _ in range(MOST_PAUSES):
            time.sleep(PAUSE_S)
            if all(_size(self._files[rank]) > self._begins[rank] for rank in ranks):
                return

    def new(self, rank: int) -> str:
        """Return what a rank has written since."""
        try:
            with self._files[rank].open("rb") as file:
                file.seek(self._begins[rank])
                return file.read(LONGEST_END).decode(errors="replace")
        except OSError:
            return ""


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
