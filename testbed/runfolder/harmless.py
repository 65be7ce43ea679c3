"""Make what hosts left in a run folder harmless for programs of this machine, or refuse it.

Hosts can leave links, FIFOs, sockets and devices, programs that run with their owner's rights,
folders that nobody can look into or remove, and files of other users. Every entry is examined. What
cannot be examined is an error, because anything may be behind it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
OWNERS_RIGHTS = stat.S_ISUID | stat.S_ISGID
LOOK = stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR  # what the owner needs to look into a folder
CAPABILITIES = "security.capability"  # of a program (capabilities(7))


def harmful_entries(top: Path, work: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield entries that a run folder should not hold, each with what it is.

    Args:
        top: the run folder.
        work: folders of working folders, in which symbolic links are allowed.

    Raises:
        OSError: an entry cannot be examined.
    """
    for folder, folders, files in os.walk(top, onerror=_refuse):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            may_be_link = _is_below(path, work)
            kind = _harmful_kind(mode, may_be_link=may_be_link)
            if kind:
                yield path, kind


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path != folder and path.is_relative_to(folder) for folder in folders)


def _harmful_kind(mode: int, *, may_be_link: bool) -> str:
    """Return what a harmful entry is; empty for others."""
    if stat.S_ISREG(mode):
        return "a program with the rights of its owner" if mode & OWNERS_RIGHTS else ""
    if stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and may_be_link):
        return ""
    return KINDS.get(stat.S_IFMT(mode), "a device")


def settle(top: Path, work: Sequence[Path]) -> list[str]:
    """Make every entry of a folder harmless.

    Links, FIFOs, sockets and devices are removed. Files and folders get the owner of `top` (if this
    process may change owners), files lose the rights of their owner, and the owner can read files
    and look into folders.

    Args:
        top: the run folder, whose programs have ended.
        work: folders of working folders, in which symbolic links are allowed.

    Returns:
        A description of each removed entry.

    Raises:
        OSError: an entry cannot be examined or changed; all others are harmless.
    """
    owner = top.lstat()
    faults: list[OSError] = []
    removed: list[str] = []
    _allow(top, stat.S_IMODE(owner.st_mode) | LOOK)
    for folder, folders, files, fd in os.fwalk(top, onerror=faults.append):
        for name in (*folders, *files):
            path = Path(folder, name)
            may_be_link = _is_below(path, work)
            try:
                kind = _settle_entry(name, fd, owner, may_be_link=may_be_link)
            except OSError as error:
                error.filename = str(path)
                faults.append(error)
                kind = "an entry that is refused"
            else:
                if kind:
                    removed.append(f"{path.relative_to(top)} was {kind}, and was removed")
            if kind and name in folders:
                folders.remove(name)
    if faults:
        raise faults[0]
    return removed


def _settle_entry(name: str, folder: int, owner: os.stat_result, *, may_be_link: bool) -> str:
    """Make one entry harmless.

    Args:
        name: the entry.
        folder: its folder, open.
        owner: the state of a folder with the wanted owner.
        may_be_link: whether the entry may be a symbolic link.

    Returns:
        What the entry was, if it was removed; empty otherwise.

    Raises:
        OSError: the entry cannot be examined or changed.
    """
    mode = os.lstat(name, dir_fd=folder).st_mode
    kind = _harmful_kind(mode, may_be_link=may_be_link)
    if kind and not stat.S_ISREG(mode):
        os.unlink(name, dir_fd=folder)
        return kind

    entry = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        _normalise(name, folder, entry, owner)
    finally:
        os.close(entry)
    if stat.S_ISDIR(mode):  # whether one can look into it
        os.close(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder))
    return ""


def _normalise(name: str, folder: int, entry: int, owner: os.stat_result) -> None:
    """Set the owner and the mode of the entry `name`, which is also open as a path."""
    state = os.fstat(entry)
    path = Path(f"/proc/self/fd/{entry}")
    is_foreign = (state.st_uid, state.st_gid) != (owner.st_uid, owner.st_gid)
    if is_foreign and os.geteuid() == 0:
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(state.st_mode):
        return
    mode = stat.S_IMODE(state.st_mode)
    wanted = mode | LOOK
    if stat.S_ISREG(state.st_mode):
        wanted = (mode | stat.S_IRUSR) & ~OWNERS_RIGHTS
        _remove_capabilities(path)
    if wanted != mode:
        path.chmod(wanted)


def _remove_capabilities(path: Path) -> None:
    try:
        os.removexattr(path, CAPABILITIES)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return
        # Not everybody may remove what is not there.
        with suppress(OSError):
            if CAPABILITIES not in os.listxattr(path):
                return
        raise


def _allow(folder: Path, mode: int) -> None:
    if stat.S_IMODE(folder.lstat().st_mode) != mode:
        folder.chmod(mode)


def _refuse(error: OSError) -> NoReturn:
    raise error
