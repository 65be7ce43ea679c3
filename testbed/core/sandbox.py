"""Run a program with write access to some folders of this machine only, and without a network.

usage: python -IS sandbox.py STARTER MEMORY_BYTES FOLDER ... -- PROGRAM ARGUMENT ...

In a new mount namespace every file system is read-only except the FOLDERs and (unless MEMORY_BYTES
is 0) a new /dev/shm of that size. A new network namespace contains only a loopback interface that
is down. For a user who is not root, both are created in a new user namespace. Where the system does
not allow this, a line on standard error says so, and the program starts unconfined. The program is
killed when its parent, the process STARTER, ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # The file is started by path and isolated (-IS), so that a user's module cannot replace a
    # module of the standard library. The testbed is last on the path, and needed only for the
    # system calls.
    sys.path.append(str(Path(__file__).parents[2]))

from testbed.core import linux

SHM = "/dev/shm"
CONFINE = Path(__file__)


def _enter_namespaces() -> None:
    uid = os.geteuid()
    gid = os.getegid()
    namespaces = linux.CLONE_NEWNS | linux.CLONE_NEWNET
    try:
        linux.unshare(namespaces)
    except OSError:
        linux.unshare(linux.CLONE_NEWUSER | namespaces)
    else:
        return

    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def confine(memory_bytes: int, folders: list[str]) -> None:
    """Confine the calling process permanently.

    Args:
        memory_bytes: The size of a new /dev/shm; 0 makes none.
        folders: The only folders that stay writable.

    Raises:
            OSError: The system does not allow the confinement.
    """
    _enter_namespaces()
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    writable = list(folders)
    if memory_bytes:
        linux.mount("tmpfs", SHM, "tmpfs", 0, f"mode=1777,size={memory_bytes}")
        writable.append(SHM)

    for folder in folders:
        linux.mount(folder, folder, None, linux.MS_BIND | linux.MS_REC)
    linux.set_read_only("/", True, recursive=True)
    for folder in writable:
        linux.set_read_only(folder, False)


def why_not(memory_bytes: int, folders: list[str]) -> str:
    """Try `confine` in a child process, because a partial failure leaves broken namespaces behind.

    Args:
        memory_bytes: As of `confine`.
        folders: As of `confine`.

    Returns:
            Why this process cannot be confined; empty if confinement works.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            confine(memory_bytes, folders)
        except OSError as error:
            os.write(write_end, str(error.strerror).encode())

        os._exit(0)

    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        reason = answer.read().decode()
    os.waitpid(pid, 0)
    return reason


def main(starter: int, memory_bytes: int, folders: list[str], program: list[str]) -> None:
    """Confine the calling process, and execute `program`.

    Args:
            starter: The process id of the parent; the program is killed when the parent ends.
        memory_bytes: As of `confine`.
        folders: As of `confine`.
        program: The program and its arguments.
    """
    if reason := why_not(memory_bytes, folders):
        message = f"sandboxing is unavailable on this system: {reason}"
        print(message, file=sys.stderr)
    else:
        confine(memory_bytes, folders)

    os.chdir("/")  # re-resolve the root after the mounts
    linux.die_with_parent()
    starter_lives = os.getppid() == starter
    if starter_lives:
        os.execvp(program[0], program)


if __name__ == "__main__":
    end_of_folders = sys.argv.index("--")
    main(
        starter=int(sys.argv[1]),
        memory_bytes=int(sys.argv[2]),
        folders=sys.argv[3:end_of_folders],
        program=sys.argv[end_of_folders + 1 :],
    )
