"""A network namespace with the /sys that shows it, and the process that holds both."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.core.linux import CLONE_NEWNET, CLONE_NEWNS, MS_PRIVATE, MS_REC

CLONE_VM, CLONE_FILES = 0x100, 0x400
STACK_BYTES = 1 << 16
ALIGNMENT = 16  # of a stack (System V ABI for x86-64; AArch64 wants the same)
_libc = ctypes.CDLL(None, use_errno=True)


class Holder:
    """A process that sleeps in namespaces of its own.

    It shares this process's memory and files. A fork would have copies of them: 60 ms in a guest,
    most of them for the page tables, and ten times what the namespaces take.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: the namespaces cannot be made.
        """
        self._stack = ctypes.create_string_buffer(STACK_BYTES)
        with _return_to_namespaces(), _deaf():
            _check(_libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
            _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
            _check(_libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None))
            self.pid = self._clone()

    def _clone(self) -> int:
        top = (ctypes.addressof(self._stack) + STACK_BYTES) // ALIGNMENT * ALIGNMENT
        function, flags = (
            ctypes.cast(_libc.pause, ctypes.c_void_p),
            CLONE_VM | CLONE_FILES | signal.SIGCHLD,
        )
        pid = int(_libc.clone(function, ctypes.c_void_p(top), flags, None))
        _check(min(pid, 0))
        return pid

    def end(self) -> None:
        """End the process, and with it what lived in its namespaces alone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def _return_to_namespaces() -> Iterator[None]:
    """This thread's network, mounts, root and folder are what they were after the block."""
    places = [os.open(name, os.O_RDONLY) for name in ("/", ".")]
    own = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    try:
        try:
            yield
        finally:
            for namespace in own:
                _check(_libc.setns(namespace, 0))
            os.fchdir(
                places[0]
            )  # entering a mount namespace leaves the root for the namespace's own
            os.chroot(".")
            os.fchdir(places[1])
    finally:
        for place in (*places, *own):
            os.close(place)


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started in the block hears no signal that can be blocked: it would run this process's
    handlers.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check(result: int) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"a network namespace cannot be made: {os.strerror(errno)}")
