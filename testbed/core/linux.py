"""Provide Linux system calls that Python's standard library lacks; each OSError names the call.

The module imports only the standard library, because `testbed.core.sandbox` imports the module
first. Names and numbers of constants are those of the kernel's headers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys

# setns(2), unshare(2), clone(2)
CLONE_VM = 0x00000100
CLONE_FILES = 0x00000400
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# mount(2), umount2(2)
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# mount_setattr(2), which glibc before 2.36 lacks
SYS_MOUNT_SETATTR = 442
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_TIMERSLACK = 29
PR_SET_NO_NEW_PRIVS = 38

# capset(2)
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITY_NUMBERS = 64  # a capability set has 64 bits; kernels define fewer

PTRACE_TRACEME = 0
STACK_ALIGNMENT = 16  # System V ABI for x86-64; AArch64 requires the same

_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":  # imported on other systems by testbed vm, but not used
    _libc.mount.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    ]
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _error(call: str) -> OSError:
    errno = ctypes.get_errno()
    reason = os.strerror(errno)
    return OSError(errno, f"{call}: {reason}")


def _check(result: int, call: str) -> None:
    if result != 0:
        raise _error(call)


def _bytes(text: str | None) -> bytes | None:
    if text is None:
        return None
    return os.fsencode(text)


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace that `fd` refers to.

    Args:
        fd: An open file of ``/proc/PID/ns``.
        kind: The ``CLONE_NEW...`` flag that the namespace must have; 0 accepts any.

    Raises:
        OSError: The kernel refuses the call.
    """
    result = _libc.setns(fd, kind)
    _check(result, "setns")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces, one for each ``CLONE_NEW...`` flag.

    Raises:
        OSError: The kernel refuses the call.
    """
    result = _libc.unshare(flags)
    _check(result, "unshare")


def clone_paused(stack: ctypes.Array[ctypes.c_char], flags: int) -> int:
    """Start a child process that only sleeps in pause(2).

    Args:
        stack: The memory of the child's stack; must outlive the child if `flags` has ``CLONE_VM``.
        flags: ``CLONE_...`` flags, and the signal that the parent gets when the child ends.

    Returns:
        The child's process id.

    Raises:
        OSError: The kernel refuses the call.
    """
    end_of_stack = ctypes.addressof(stack) + ctypes.sizeof(stack)
    top = end_of_stack // STACK_ALIGNMENT * STACK_ALIGNMENT
    function = ctypes.cast(_libc.pause, ctypes.c_void_p)
    stack_top = ctypes.c_void_p(top)
    pid = int(_libc.clone(function, stack_top, flags, None))
    if pid < 0:
        raise _error("clone")
    return pid


def mount(
    source: str | None,
    target: str,
    fstype: str | None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """Mount a file system, or change the mount at `target`.

    Args:
        source: The device, folder or name to mount.
        target: The folder or file on which to mount.
        fstype: The type of the file system; None where `flags` say what to do.
        flags: ``MS_...`` flags.
        data: Options of the file system, separated by commas.

    Raises:
        OSError: The kernel refuses the call.
    """
    source_bytes = _bytes(source)
    target_bytes = _bytes(target)
    fstype_bytes = _bytes(fstype)
    data_bytes = _bytes(data)
    result = _libc.mount(source_bytes, target_bytes, fstype_bytes, flags, data_bytes)
    _check(result, f"mount {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Unmount `target`; with ``MNT_DETACH``, the default, as soon as no process uses the mount.

    Raises:
        OSError: The kernel refuses the call.
    """
    result = _libc.umount2(_bytes(target), flags)
    _check(result, f"umount {target}")


def set_read_only(path: str, read_only: bool, *, recursive: bool = False) -> None:
    """Make the mount at `path` read-only or writable (mount_setattr).

    Args:
        path: The mount point.
        read_only: Whether to set or to clear the attribute.
        recursive: Whether to change all mounts below `path` too.

    Raises:
        OSError: The kernel refuses the call.
    """
    if read_only:
        _set_attributes(path, MOUNT_ATTR_RDONLY, 0, recursive)
    else:
        _set_attributes(path, 0, MOUNT_ATTR_RDONLY, recursive)


def forbid_programs_of_owners(path: str) -> None:
    """Let no program at the mount `path` run with its owner's rights, nor open devices.

    Raises:
        OSError: The kernel refuses the call.
    """
    _set_attributes(path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, recursive=False)


def _set_attributes(path: str, to_set: int, to_clear: int, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)()  # to set, to clear, propagation, user namespace
    attributes[0] = to_set
    attributes[1] = to_clear
    flags = AT_RECURSIVE if recursive else 0
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, _bytes(path), flags, attributes, size)
    _check(result, f"mount_setattr {path}")


def prctl(option: int, *arguments: int) -> None:
    """Change an attribute of the calling thread or process.

    Args:
        option: A ``PR_...`` number.
        arguments: Up to four arguments of the option; missing ones are 0.

    Raises:
        OSError: The kernel refuses the call.
    """
    padding = [0] * (4 - len(arguments))
    result = _libc.prctl(option, *arguments, *padding)
    _check(result, "prctl")


def die_with_parent() -> None:
    """Have the calling process killed when the thread that started the process ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_bounding_set() -> None:
    """Remove every capability that this process may remove from its bounding set.

    Does not fail: the kernel refuses numbers that it does not know, and callers without the right.
    """
    for capability in range(CAPABILITY_NUMBERS):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def capset_none() -> None:
    """Return up all capabilities of the calling thread.

    Raises:
        OSError: The kernel refuses the call.
    """
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    no_capabilities = bytes(24)
    result = _libc.capset(header, no_capabilities)
    _check(result, "capset")


def trace_me() -> None:
    """Let the parent process trace the calling one (``PTRACE_TRACEME``).

    Raises:
        OSError: Yama, seccomp or the kernel refuses the call.
    """
    result = _libc.ptrace(PTRACE_TRACEME, 0, 0, 0)
    _check(result, "ptrace")
