"""Keep notes about resources that a killed process leaves behind, for removal by a later process.

    with note(Kind.TEMPORARY, folder): ...        # in the process that may be killed
    for left in abandoned_notes(): ...            # in a later process: testbed.execution.cleanup

A note is a folder PID-TOKEN below the folder ``notes`` of the cache. A symbolic link in the folder,
named after the kind of the resource, points to the resource. The owner of a note may keep more
files in the folder; the files are removed with the note.

The owner holds a lock on the file ``alive`` (`testbed.core.ownership`), so a cache can be shared by
containers with PID namespaces of their own, and by machines. Notes and links count only if they and
what they point to belong to the same user: nobody can make another user's command remove a folder.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from testbed.core.ownership import Owner, claim, is_claimed, owner_of
from testbed.core.paths import cache_dir

ALIVE = "alive"  # file of a note, locked by its owner
BEING_MADE = "."


class Kind(StrEnum):
    """Kind of a resource, which determines the clean-up."""

    RUN = "run"  # the folder of an active run or deployment: kept
    TEMPORARY = "temporary"  # a temporary folder: removed


@dataclass(frozen=True)
class Note:
    """A note, identified by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the note, unique for this machine and user."""
        return self.folder.name

    def target(self, kind: Kind) -> Path | None:
        """Return the folder of this kind that the note refers to.

        Returns:
            The folder, which may be missing; None if there is none, or if the note, the link and
            the folder do not belong to the same user.
        """
        link = self.folder / kind
        try:
            writer = self.folder.lstat().st_uid
            if not link.is_symlink() or link.lstat().st_uid != writer:
                return None
            target = link.readlink()
            if target.lstat().st_uid != writer:
                return None
        except FileNotFoundError:  # not created yet, or removed by now
            return link.readlink() if link.is_symlink() else None
        except OSError:
            return None
        return target

    def is_abandoned(self) -> bool:
        """Return whether the note's owner has ended, and this user may clean up the resource.

        Notes of other machines count as in use: only their machine can tell what is left there.
        """
        try:
            found = self.folder.lstat()
        except OSError:  # another process has just cleaned up
            return False
        if not stat.S_ISDIR(found.st_mode) or os.geteuid() not in (0, found.st_uid):
            return False

        lock = self.folder / ALIVE
        owner = owner_of(lock)
        if owner is not None:
            return owner.is_of_this_machine() and not is_claimed(lock)
        if lock.exists():
            return not is_claimed(lock)
        # A note of testbed 0.2, which had no lock.
        writer = self.name.partition("-")[0]
        return writer.isdigit() and not Path("/proc", writer).exists()

    def foreign_owner(self) -> Owner | None:
        """Return the owner of the note, if the owner is a process of another machine."""
        owner = owner_of(self.folder / ALIVE)
        return None if owner is None or owner.is_of_this_machine() else owner

    def age_s(self) -> float:
        """Return the time in s since the note was written; 0 if another process has removed it."""
        try:
            return time.time() - (self.folder / ALIVE).stat().st_mtime
        except OSError:
            return 0.0

    def is_locked(self) -> bool:
        """Return whether the owner of the note lives, as far as this machine can tell."""
        return is_claimed(self.folder / ALIVE)

    def remove(self) -> None:
        """Remove the note, but not the resource."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def note(kind: Kind, target: Path) -> Iterator[Note]:
    """Keep a note within the block, so that others find `target` if this process is killed.

    Args:
        kind: the kind of `target`, which determines the clean-up.
        target: a folder, which may be created later.
    """
    name = f"{os.getpid()}-{secrets.token_hex(3)}"
    written = Note(_notes_folder() / name)
    # Nobody may see the note before it is locked.
    new = written.folder.with_name(f"{BEING_MADE}{name}")
    new.mkdir(parents=True)
    alive = claim(new / ALIVE)
    try:
        (new / kind).symlink_to(target)
        new.rename(written.folder)
        yield written
    finally:
        shutil.rmtree(new, ignore_errors=True)
        written.remove()
        alive.close()


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Create a temporary folder for the block; a later process removes the folder after a kill.

    Args:
        prefix: prefix of the folder's name.
        parent: the parent folder; None: the system's folder for temporary files.
    """
    path = (parent or Path(tempfile.gettempdir())) / (prefix + secrets.token_hex(4))
    with note(Kind.TEMPORARY, path):
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def abandoned_notes() -> list[Note]:
    """Return the notes of processes that have ended."""
    return [written for written in _all_notes() if written.is_abandoned()]


def foreign_notes() -> list[Note]:
    """Return the notes of this user's processes of other machines, sorted by name.

    Only their machine can tell what is left of them, and it may not exist any more.
    """
    notes: list[Note] = []
    for written in _all_notes():
        is_own = written.folder.lstat().st_uid == os.geteuid()
        if is_own and written.foreign_owner() is not None:
            notes.append(written)
    return sorted(notes, key=lambda written: written.name)


def targets_in_use() -> list[Path]:
    """Return the folders of the active runs and deployments of this user's cache."""
    targets: list[Path] = []
    for written in _all_notes():
        target = written.target(Kind.RUN)
        if target is not None and not written.is_abandoned():
            targets.append(target.resolve())
    return targets


def forget(target: Path) -> None:
    """Remove all notes about `target`, by any process."""
    for written in _all_notes():
        if target in (written.target(kind) for kind in Kind):
            written.remove()


def _all_notes() -> list[Note]:
    folder = _notes_folder()
    if not folder.is_dir():
        return []
    return [Note(path) for path in folder.iterdir() if not path.name.startswith(BEING_MADE)]


def _notes_folder() -> Path:
    return cache_dir() / "notes"
