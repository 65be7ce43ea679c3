"""A zygote on the machine itself that imports torch before the hosts exist."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from testbed.core.compat.torch_imports import quick_imports
from testbed.runfolder.folder import RunDir
from testbed.workers import zygote
from testbed.workers.orders import Order, send_orders


class WarmParent:
    """A running zygote, which is a child of this process."""

    def __init__(self, pid: int, fifo: Path) -> None:
        self._pid = pid
        self._fifo = fifo
        self._ended = False

    def start(self, orders: list[Order]) -> None:
        """Send orders to the zygote, which forks the ranks.

        Raises:
            WorkerError: the zygote has ended.
        """
        send_orders(self._fifo, orders, Path("/proc", str(self._pid), "exe"))

    def ended(self) -> bool:
        """Return whether the zygote has ended."""
        if not self._ended:
            pid, _wait_status = os.waitpid(self._pid, os.WNOHANG)
            self._ended = pid != 0

        return self._ended

    def end(self) -> None:
        """Kill the zygote and its ranks."""
        if not self.ended():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def import_torch() -> None:
    """Import torch for all zygotes forked from this process, and for their ranks."""
    with quick_imports():
        from testbed.workers import rank  # noqa: F401, PLC0415


@contextmanager
def warm_parent(run: RunDir, folder: Path) -> Iterator[WarmParent]:
    """Start a zygote, whose ranks end with the block.

    The zygote is a fork of this process, reuses the imports of this process, and imports torch in
    the background.

    Args:
        run: the run folder.
        folder: folder for the zygote's FIFO.
    """
    fifo = folder / "orders"
    os.mkfifo(fifo)

    with (run.logs / "parent.log").open("w") as log:
        pid = zygote.forked(partial(_be_zygote, run, fifo, log.fileno()))

    parent = WarmParent(pid, fifo)
    try:
        yield parent
    finally:
        parent.end()


def _be_zygote(run: RunDir, fifo: Path, log_fd: int) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)

    return zygote.main(str(run.path), str(fifo))
