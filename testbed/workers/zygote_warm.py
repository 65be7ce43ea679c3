"""A parent of ranks on the machine itself, which has imported torch before the hosts are there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from testbed.runfolder.folder import RunDir
from testbed.workers import zygote
from testbed.workers.fleet import send_orders
from testbed.workers.zygote import Order


class WarmParent:
    """A running parent."""

    def __init__(self, pid: int, fifo: Path) -> None:
        self._pid = pid
        self._fifo = fifo
        self._ended = False

    def start(self, orders: list[Order]) -> None:
        """Fork the ranks."""
        send_orders(self._fifo, orders, Path("/proc", str(self._pid), "exe"))

    def ended(self) -> bool:
        """Whether it is gone."""
        if not self._ended:
            self._ended = os.waitpid(self._pid, os.WNOHANG)[0] != 0
        return self._ended

    def end(self) -> None:
        """Kill it, and its ranks with it."""
        if not self.ended():
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def import_torch() -> None:
    """So that parents forked from this process, and all their ranks, have it already."""
    with zygote.quick_imports():
        from testbed.workers import rank  # noqa: F401, PLC0415


@contextmanager
def warm_parent(run: RunDir, folder: Path) -> Iterator[WarmParent]:
    """Start a parent, with its FIFO in `folder`; its ranks end with the block.

    It is a fork of this process, whose imports it need not do again, and imports torch beside what
    we do.
    """
    fifo = folder / "orders"
    os.mkfifo(fifo)
    with (run.logs / "parent.log").open("w") as log:
        pid = zygote.forked(partial(_be_parent, run, fifo, log.fileno()))
    warm = WarmParent(pid, fifo)
    try:
        yield warm
    finally:
        warm.end()


def _be_parent(run: RunDir, fifo: Path, log: int) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return zygote.main(str(run.path), str(fifo))
