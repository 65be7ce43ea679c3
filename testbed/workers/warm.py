"""A parent of ranks on the machine itself, which has imported torch before the hosts are there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.rundir import RunDir
from testbed.workers.fleet import ENVIRONMENT, send_orders
from testbed.workers.parent import Order


class WarmParent:
    """A running parent."""

    def __init__(self, process: subprocess.Popen[bytes], fifo: Path) -> None:
        self._process = process
        self._fifo = fifo

    def start(self, orders: list[Order]) -> None:
        """Fork the ranks."""
        send_orders(self._fifo, orders, Path("/proc", str(self._process.pid), "exe"))

    def ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None


@contextmanager
def warm_parent(run: RunDir, folder: Path) -> Iterator[WarmParent]:
    """Start a parent, with its FIFO in `folder`; its ranks end with the block."""
    fifo = folder / "orders"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "testbed.workers.parent", str(run.path), str(fifo)]
    with (run.logs / "parent.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}
        )
    try:
        yield WarmParent(process, fifo)
    finally:
        process.kill()
        process.wait()
