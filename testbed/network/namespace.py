"""A process that holds a network namespace and the /sys of that namespace."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from testbed.core import linux

STACK_BYTES = 1 << 16


class NamespaceProcess:
    """A sleeping process in a new network namespace and a new mount namespace.

    The process shares the memory and the open files of its parent. A fork would copy both: 60 ms in
    a guest, most of the time for the page tables, and ten times the cost of the namespaces.
    """

    def __init__(self) -> None:
        """Start the process.

        Raises:
            OSError: the namespaces cannot be made.
        """
        self._stack = ctypes.create_string_buffer(STACK_BYTES)
        try:
            self.pid = self._start()
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            text = f"cannot create a network namespace: {reason}"
            raise OSError(error.errno, text) from error

    def _start(self) -> int:
        with _return_to_namespaces(), _signals_blocked():
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS)

            # The calling process keeps its own /sys.
            linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("sysfs", "/sys", "sysfs")

            flags = linux.CLONE_VM | linux.CLONE_FILES | signal.SIGCHLD
            return linux.clone_paused(self._stack, flags)

    def end(self) -> None:
        """End the process and with it everything that exists only in its namespaces."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@contextmanager
def _return_to_namespaces() -> Iterator[None]:
    """Restore this thread's network, mounts, root and working folder after the block."""
    root, folder = [os.open(name, os.O_RDONLY) for name in ("/", ".")]
    namespaces = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    try:
        try:
            yield
        finally:
            for namespace in namespaces:
                linux.setns(namespace)
            # Entering a mount namespace changes the root to the namespace's root.
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(folder)
    finally:
        for opened in (root, folder, *namespaces):
            os.close(opened)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block all blockable signals, for this thread and for processes started in the block.

    A signal would run this process's handlers in a process that shares its memory.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
