"""The processes of a session, such as all those of one guest: their CPU time, and their end."""

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
    """What /proc/PID/stat says of a process (proc(5)).

    Attributes:
        pid: its number.
        state: a letter, Z and X once it has ended.
        ticks: CPU time, in clock ticks, of it and of the children that it has waited for.
        virtual_bytes: its address space; 0 once it has given back its memory.
    """

    pid: int
    state: str
    ticks: int
    virtual_bytes: int

    @property
    def has_ended(self) -> bool:
        """Whether the process only waits to be waited for."""
        return self.state in "ZX"


def session_cpu_seconds(session: int) -> float:
    """Give the CPU time of all processes of a session, and of those that they have waited for."""
    ticks = sum(process.ticks for process in _processes_of(session))
    return ticks / os.sysconf("SC_CLK_TCK")


def kill_session(session: int, *, await_memory: bool) -> None:
    """Kill every process of a session, again until none lives.

    Args:
        session: its number. Process groups will not do: each process of UML has its own.
        await_memory: whether to wait until they have given back all of their memory; else until
            none has anything else left to do.
    """
    for _attempt in range(KILL_ATTEMPTS):
        living = [process for process in _processes_of(session) if not process.has_ended]
        if not await_memory:
            living = [process for process in living if process.virtual_bytes > 0]
        if not living:
            return
        for process in living:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(KILL_PAUSE_S)


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


def _processes_of(session: int) -> Iterator[ProcessStat]:
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
    """Give the fields of /proc/PID/stat from the third, the state, on; None if it has ended."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
