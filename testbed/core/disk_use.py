"""Sizes of files and folders, and which of them live processes use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from testbed.core.leftovers import targets_in_use

PROC = Path("/proc")


def disk_bytes(path: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk; 0 if `path` is missing.

    Args:
        path: A file or a folder; symbolic links are not followed.
    """
    total = _blocks_bytes(path)
    if path.is_symlink() or not path.is_dir():
        return total
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            total += _blocks_bytes(Path(folder, name))
    return total


def _blocks_bytes(path: Path) -> int:
    try:
        return 512 * path.lstat().st_blocks  # POSIX counts in units of 512 bytes
    except OSError:
        return 0


class PathsInUse:
    """The paths that live processes of this machine use, at the time of construction.

    A process uses what it executes, maps, holds open or works in, what its command line names, and
    the folders of its runs and deployments.
    """

    def __init__(self) -> None:
        self._paths = set(targets_in_use())
        for process in PROC.iterdir():
            is_other = process.name.isdigit() and process.name != str(os.getpid())
            if is_other:
                self._paths.update(_paths_of(process))

    def holds(self, path: Path) -> bool:
        """Return whether a process uses `path`, or a file below `path`."""
        resolved = path.resolve()
        return any(used == resolved or resolved in used.parents for used in self._paths)

    def holds_any_run(self) -> bool:
        """Return whether a run or a deployment is alive on this machine, by its note."""
        return bool(targets_in_use())


def _paths_of(process: Path) -> Iterator[Path]:
    """Yield the absolute paths that a process uses; none once the process has ended."""
    links = [process / name for name in ("exe", "cwd")]
    try:
        links += list((process / "fd").iterdir())
        words = (process / "cmdline").read_bytes().split(b"\0")
        maps = (process / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return  # ended, or a process of another user

    for link in links:
        try:
            target = str(link.readlink()).removesuffix(" (deleted)")
        except OSError:
            continue
        if target.startswith("/"):
            yield Path(target)
    for line in maps:
        _, slash, rest = line.partition("/")
        if slash:
            yield Path("/" + rest)
    for word in words:
        # Options of guests have the form name=/path; a working folder may be relative.
        text = word.decode(errors="replace").rpartition("=")[2]
        if text.startswith("/"):
            yield Path(text)
