"""Notes of what a process would leave behind if it were killed, for a later process to remove.

    with note(Kind.TEMPORARY, folder): ...        # in the process that may be killed
    for left in abandoned_notes(): ...            # in a later one: testbed.execution.cleanup

A note is a folder PID-TOKEN below the folder ``notes`` of the cache. A symbolic link in it, named
after the kind of thing, leads to the thing. Whoever writes a note may keep more files in its
folder; they vanish with the note.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from testbed.core.paths import cache_dir


class Kind(StrEnum):
    """What a note is about, and so what is to be done about it."""

    RUN = "run"  # the folder of a run or deployment in progress: it stays
    TEMPORARY = "temporary"  # a folder that would have been removed: it is removed


@dataclass(frozen=True)
class Note:
    """A note, by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Unique among all notes of this machine and user."""
        return self.folder.name

    def target(self, kind: Kind) -> Path | None:
        """Give the folder of this kind that the note is about; None if there is none."""
        link = self.folder / kind
        return link.readlink() if link.is_symlink() else None

    def is_abandoned(self) -> bool:
        """Whether the process that wrote the note is gone, and this user may clear up after it."""
        writer = self.name.partition("-")[0]
        if not writer.isdigit() or Path("/proc", writer).exists():
            return False

        user = os.geteuid()
        try:
            return user in (0, self.folder.stat().st_uid)
        except FileNotFoundError:  # somebody else has just cleared up
            return False

    def remove(self) -> None:
        """Remove the note, and leave alone what it is about."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def note(kind: Kind, target: Path) -> Iterator[Note]:
    """Keep a note within the block: if this process is killed, `target` is known to others.

    Args:
        kind: what is to be done about `target`.
        target: a folder, which may be made later.
    """
    written = Note(_notes_folder() / f"{os.getpid()}-{secrets.token_hex(3)}")
    written.folder.mkdir(parents=True)
    try:
        (written.folder / kind).symlink_to(target)
        yield written
    finally:
        written.remove()


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for the block, which is also removed if this process is killed in it.

    Args:
        prefix: how its name begins.
        parent: where it is made; None: the system's folder for temporary files.
    """
    path = (parent or Path(tempfile.gettempdir())) / (prefix + secrets.token_hex(4))
    with note(Kind.TEMPORARY, path):
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def abandoned_notes() -> list[Note]:
    """Give the notes of processes that are gone."""
    return [written for written in _all_notes() if written.is_abandoned()]


def forget(target: Path) -> None:
    """Remove all notes about `target`, whichever process wrote them."""
    for written in _all_notes():
        if target in (written.target(kind) for kind in Kind):
            written.remove()


def _all_notes() -> list[Note]:
    folder = _notes_folder()
    return [Note(path) for path in folder.iterdir()] if folder.is_dir() else []


def _notes_folder() -> Path:
    return cache_dir() / "notes"
