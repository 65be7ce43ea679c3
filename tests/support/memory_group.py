"""Memory of the commands that a test starts, by a control group, in version 1 or 2.

Files that the kernel could read again do not count, so the memory that remains after all commands
have ended is memory that they have lost.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

JOIN = 'echo $$ > "$0" && exec "$@"'
RETAINED = {  # of memory.stat, in bytes; version 1 counts the kernel's memory in a separate file
    1: ("total_rss", "total_shmem"),
    2: ("anon", "shmem", "kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable"),
}


@dataclass(frozen=True)
class MemoryGroup:
    """A memory control group.

    Attributes:
        path: folder of the group.
        version: version of control groups, 1 or 2.
    """

    path: Path
    version: int

    def joined(self, words: Sequence[str]) -> list[str]:
        """Return the words of a command that enters the group and becomes the command `words`."""
        return ["sh", "-c", JOIN, str(self.path / "cgroup.procs"), *words]

    def retained_bytes(self) -> int:
        """Drop the group's cached files, and return the bytes that are still in use."""
        self._reclaim()
        lines = (self.path / "memory.stat").read_text().splitlines()
        values = dict(line.split() for line in lines)
        retained = sum(int(values.get(name, 0)) for name in RETAINED[self.version])
        if self.version == 1:
            retained += int((self.path / "memory.kmem.usage_in_bytes").read_text())
        return retained

    def _reclaim(self) -> None:
        """Drop what can be dropped; the kernel reports an error if less than asked for is left."""
        with contextlib.suppress(OSError):
            if self.version == 1:
                (self.path / "memory.force_empty").write_text("0")
            else:
                usage = (self.path / "memory.current").read_text()
                (self.path / "memory.reclaim").write_text(usage)


@contextlib.contextmanager
def memory_group(name: str) -> Iterator[MemoryGroup | None]:
    """Make a memory control group for the time of the context.

    Args:
        name: name of the group.

    Yields:
        The group; None if this machine or user cannot make one.
    """
    group = _made(name)
    try:
        yield group
    finally:
        if group is not None:
            with contextlib.suppress(OSError):  # a process of the group is still ending
                group.path.rmdir()


def _made(name: str) -> MemoryGroup | None:
    for root, version in _roots():
        group = MemoryGroup(root / name, version)
        try:
            group.path.mkdir()
        except OSError:
            continue
        can_join = os.access(group.path / "cgroup.procs", os.W_OK)
        if can_join and (group.path / "memory.stat").exists():
            return group
        group.path.rmdir()
    return None


def _roots() -> list[tuple[Path, int]]:
    """Return the mounted roots of control groups that could count memory, with their versions."""
    roots: list[tuple[Path, int]] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            roots.append((Path(place), 1))
        elif kind == "cgroup2":
            roots.append((Path(place), 2))
    return roots
