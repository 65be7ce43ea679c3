"""Read the CPU time of the processes of a session, such as a guest, and kill the processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KILL_ATTEMPTS = 100
KILL_PAUSE_S = 0.02


@dataclass(frozen=True)
class ProcessStat:
    """State, CPU time and memory of a process, from /proc/PID/stat (proc(5)).

    Attributes:
        pid: process id.
        state: a letter; Z or X once the process has ended.
        ticks: CPU time in clock ticks, including children that the process has waited for.
        virtual_bytes: size of the address space; 0 once the process has released its memory.
    """

    pid: int
    state: str
    ticks: int
    virtual_bytes: int

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, as a zombie or dead."""
        return self.state in "ZX"


def session_cpu_seconds(session: int) -> float:
    """Return the CPU time in s of all processes of a session, including children already reaped."""
    ticks = sum(process.ticks for process in processes_of(session))
    return ticks / os.sysconf("SC_CLK_TCK")


def kill_session(session: int, *, await_memory: bool) -> None:
    """Kill all processes of a session, repeatedly until none is left.

    Process groups are not sufficient: each process of UML has a separate process group.

    Args:
        session: the session id.
        await_memory: whether to wait until the processes have released all of their memory, not
            only until all have ended.
    """
    for _attempt in range(KILL_ATTEMPTS):
        living = [process for process in processes_of(session) if not process.has_ended]
        if not await_memory:
            living = [process for process in living if process.virtual_bytes > 0]
        if not living:
            return
        for process in living:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(KILL_PAUSE_S)


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def processes_of(session: int) -> Iterator[ProcessStat]:
    """Yield the processes of a session, also those that have ended and are not yet reaped."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        fields = _stat_fields(pid)
        if fields is None or int(fields[3]) != session:
            continue
        ticks = sum(map(int, fields[11:15]))
        virtual_bytes = int(fields[20])
        yield ProcessStat(pid, fields[0], ticks, virtual_bytes)


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (state) on; None for an ended process."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
