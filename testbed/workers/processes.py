"""Isolation ``process``: ranks are forked from one parent into their host's network namespace and control group."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from testbed.plan import Plan
from testbed.rundir import RunDir
from testbed.workers import cgroups
from testbed.workers.fleet import ENVIRONMENT, Fleet, send_orders
from testbed.workers.parent import Order


class Processes(Fleet):
    """All ranks of a run as children of one process."""

    def __init__(self, run: RunDir, plan: Plan) -> None:
        super().__init__(run, plan)
        self._groups: dict[str, Path] = {}

    def __enter__(self) -> Processes:
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="testbed-", dir="/run"))
            stack.callback(shutil.rmtree, folder)
            self._fifo = folder / "orders"
            os.mkfifo(self._fifo)
            self._add_groups(folder.name, stack)
            self._parent = self._start_parent()
            stack.callback(_end, self._parent)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _add_groups(self, run_id: str, stack: ExitStack) -> None:
        workers = self.plan.workers
        cgroups.delegate_root()
        cpus = workers.cpus if self.plan.clock == "real" else None
        all_hosts = stack.enter_context(cgroups.group(f"testbed-{run_id}"))
        for host in dict.fromkeys(rank.host for rank in workers.ranks):
            group = stack.enter_context(cgroups.group(f"{all_hosts.name}/{host}"))
            cgroups.limit(group, memory_bytes=workers.memory_bytes, cpus=cpus)
            self._groups[host] = group

    def _start_parent(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "testbed.workers.parent", str(self.run.path), str(self._fifo)]
        with (self.run.logs / "parent.log").open("w") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}
            )

    @property
    def namespaces(self) -> dict[str, int]:
        """None: the network makes them."""
        return {}

    def start(self, netns: Mapping[str, int]) -> None:
        """Start all ranks; `netns` leads to each host's network namespace."""
        orders = [
            Order(rank.rank, rank.host, netns[rank.host], str(self._groups[rank.host]))
            for rank in self.plan.workers.ranks
        ]
        send_orders(self._fifo, orders, Path("/proc", str(self._parent.pid), "exe"))

    def lost(self) -> list[str]:
        """Every host, if the parent has ended."""
        return list(self._groups) if self._parent.poll() is not None else []

    def memory_kills(self, host: str) -> int:
        """How many processes of `host` the kernel ended for want of memory."""
        return cgroups.memory_kills(self._groups[host])


def _end(parent: subprocess.Popen[bytes]) -> None:
    parent.kill()
    parent.wait()
