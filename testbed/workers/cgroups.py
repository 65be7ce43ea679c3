"""Control groups (v2) for hosts in process isolation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = "+cpu +io +memory +pids"
PIDS_MAX = 4096


def delegate_root() -> None:
    """Move the processes of the root group to a group ``init``: only then may groups below it have
    controllers.
    """
    init = ROOT / "init"
    init.mkdir(exist_ok=True)
    for pid in (ROOT / "cgroup.procs").read_text().split():
        try:
            (init / "cgroup.procs").write_text(pid)
        except OSError:
            continue  # kernel threads stay
    (ROOT / "cgroup.subtree_control").write_text(CONTROLLERS)


@contextmanager
def group(name: str) -> Iterator[Path]:
    """A new group below the root, whose processes are ended with the block."""
    path = ROOT / name
    (path.parent / "cgroup.subtree_control").write_text(CONTROLLERS)
    path.mkdir()
    try:
        yield path
    finally:
        (path / "cgroup.kill").write_text("1")
        while "populated 1" in (path / "cgroup.events").read_text():
            time.sleep(0.001)
        for below in sorted(path.rglob("*/"), reverse=True):
            below.rmdir()
        path.rmdir()


def kill(path: Path, *, but: int | None = None) -> None:
    """Kill the processes of a group, with those of the groups below it, and wait for their end;
    `but` one.
    """
    procs = [path / "cgroup.procs", *path.rglob("*/cgroup.procs")]
    while pids := {int(pid) for file in procs for pid in file.read_text().split()} - {but}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def limit(path: Path, *, memory_bytes: int, cpus: float | None) -> None:
    """Limit a group. `cpus` is a quota of CPU time; None on the virtual clock, where computation
    takes no time.
    """
    (path / "memory.max").write_text(str(memory_bytes))
    (path / "pids.max").write_text(str(PIDS_MAX))
    if cpus is not None:
        (path / "cpu.max").write_text(f"{int(cpus * 100_000)} 100000")


def memory_kills(group: Path) -> int:
    """How many processes of `group` were ended for want of memory."""
    try:
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    except OSError:
        return 0
    return int(events.get("oom_kill", 0))
