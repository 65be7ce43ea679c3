"""Become a program that can change only some folders of this machine, and has no network.

usage: python confine.py STARTER MEMORY_BYTES FOLDER ... -- PROGRAM ARGUMENT ...

In a mount namespace of its own every file system is read-only but the FOLDERs and (unless
MEMORY_BYTES is 0) a fresh /dev/shm of that size; in a network namespace of its own there is nothing
but a loopback that is down. A user who is not root makes them in a user namespace. Where the system
does not allow it, a line on standard error says so, and the program starts all the same. It is
killed when its parent, the process STARTER, ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_PDEATHSIG = 1
SHM = "/dev/shm"
CONFINE = Path(__file__)  # started as a program, it imports nothing of the testbed
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _namespaces() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWNS | CLONE_NEWNET) == 0:
        return
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """As mount(2).

    Raises:
        OSError: as it says.
    """
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    _check(_libc.mount(*words, flags, None if data is None else data.encode()), f"mount {target}")


def unmount(target: str) -> None:
    """As soon as nobody uses it any more; umount2(2).

    Raises:
        OSError: as it says.
    """
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def _set_read_only(path: str, *, yes: bool, below: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(
        MOUNT_ATTR_RDONLY if yes else 0, 0 if yes else MOUNT_ATTR_RDONLY, 0, 0
    )
    flags = AT_RECURSIVE if below else 0
    size = ctypes.sizeof(attributes)
    done = _libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, attributes, ctypes.c_size_t(size)
    )
    _check(done, f"mount_setattr {path}")


def confine(memory_bytes: int, folders: list[str]) -> None:
    """Do so with this process.

    Raises:
        OSError: the system does not allow it.
    """
    _namespaces()
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    if memory_bytes:
        mount("tmpfs", SHM, "tmpfs", 0, f"mode=1777,size={memory_bytes}")
    for folder in folders:
        mount(folder, folder, None, MS_BIND | MS_REC)
    _set_read_only("/", yes=True, below=True)
    for folder in [*folders, *[SHM] * bool(memory_bytes)]:
        _set_read_only(folder, yes=False, below=False)


def why_not(memory_bytes: int, folders: list[str]) -> str:
    """Let a child try it: empty if it can, for one that fails half-way is in namespaces in which
    little works.
    """
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            confine(memory_bytes, folders)
        except OSError as error:
            os.write(into, str(error.strerror).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as said:
        text = said.read().decode()
    os.waitpid(pid, 0)
    return text


def main(starter: int, memory_bytes: int, folders: list[str], program: list[str]) -> None:
    """Confine this process, and become `program`."""
    if trouble := why_not(memory_bytes, folders):
        print(
            f"not kept to its folders, because this system does not allow it: {trouble}",
            file=sys.stderr,
        )
    else:
        confine(memory_bytes, folders)
    os.chdir("/")  # as it is mounted now
    die_with_parent()
    if os.getppid() == starter:  # else it has ended meanwhile
        os.execvp(program[0], program)


if __name__ == "__main__":
    _words, _end = sys.argv[1:], sys.argv.index("--")
    main(int(_words[0]), int(_words[1]), sys.argv[3:_end], sys.argv[_end + 1 :])
