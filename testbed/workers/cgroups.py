"""Control groups (v2) of hosts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = "+cpu +io +memory +pids"
PIDS_MAX = 4096
CPU_PERIOD_US = 100_000
POLL_S = 0.001


def delegate_root() -> None:
    """Move the processes of the root group to a group ``init``.

    The kernel allows controllers below the root only if the root group has no processes.
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
    """Make a group below the root, yield its folder, and kill its processes after the block."""
    path = ROOT / name
    (path.parent / "cgroup.subtree_control").write_text(CONTROLLERS)
    path.mkdir()

    try:
        yield path
    finally:
        (path / "cgroup.kill").write_text("1")
        while "populated 1" in (path / "cgroup.events").read_text():
            time.sleep(POLL_S)

        for subgroup in sorted(path.rglob("*/"), reverse=True):
            subgroup.rmdir()

        path.rmdir()


def kill(path: Path, *, but: int | None = None) -> None:
    """Kill the processes of a group and of all its subgroups, and wait for their end.

    Args:
        path: folder of the group.
        but: id of a process to spare.
    """
    files = [path / "cgroup.procs", *path.rglob("*/cgroup.procs")]
    while pids := _processes(files) - {but}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        time.sleep(POLL_S)


def processes(path: Path) -> list[int]:
    """Return the processes of a group and of all its subgroups, in order of their ids."""
    files = [path / "cgroup.procs", *path.rglob("*/cgroup.procs")]
    return sorted(_processes(files))


def _processes(files: Sequence[Path]) -> set[int]:
    pids: set[int] = set()
    for file in files:
        pids.update(map(int, file.read_text().split()))

    return pids


def limit(path: Path, *, memory_bytes: int, cpus: float | None) -> None:
    """Limit memory, processes and CPU time of a group.

    Args:
        path: folder of the group.
        memory_bytes: the most memory that the group's processes may use.
        cpus: quota of CPU time in CPUs; None on the virtual clock, where computation takes no time.
    """
    (path / "memory.max").write_text(str(memory_bytes))
    (path / "pids.max").write_text(str(PIDS_MAX))
    if cpus is not None:
        quota_us = int(cpus * CPU_PERIOD_US)
        (path / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")


def memory_kills(group: Path) -> int:
    """Return the number of processes of `group` killed by the kernel for lack of memory."""
    try:
        lines = (group / "memory.events").read_text().splitlines()
    except OSError:
        return 0

    events = dict(line.split() for line in lines)
    return int(events.get("oom_kill", 0))
