"""What both kinds of isolation share: parents that wait for orders, and the watch over their
ranks.
"""

from __future__ import annotations

import errno
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from testbed.core.errors import WorkerError
from testbed.plan.model import Plan, Rank
from testbed.runfolder.folder import RunDir, read_records
from testbed.workers.zygote import Order, encode_orders

POLL_S = 0.05  # of the run's clock: how long after the last rank the run ends, at most
# for which the other ranks go on when one has failed: what they saw of it is in their logs then
LAST_WORDS_S = 0.5
LOG_TAIL_LINES = 25
ENVIRONMENT = {
    # New memory costs 80 us a page in the guest: glibc keeps what it has, and grows by 64 MiB.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONDONTWRITEBYTECODE": "1",
}


class Fleet(ABC):
    """The ranks of a run, on their hosts. Entering the context starts the parents; leaving it ends
    everything.
    """

    def __init__(self, run: RunDir, plan: Plan) -> None:
        self.run = run
        self.plan = plan
        self._starts: Counter[int] = (
            Counter()
        )  # of each rank that the testbed starts: its processes so far
        self._killed: set[tuple[int, int]] = (
            set()
        )  # rank and number of its process: those that the plan kills
        self._hosts_to_start = sum(len(change.started) for change in plan.network.changes)

    @property
    @abstractmethod
    def namespaces(self) -> dict[str, int]:
        """For hosts that come with a network namespace of their own: a process in it."""

    @abstractmethod
    def _start(self, hosts: Sequence[str], netns: Mapping[str, int]) -> None:
        """Start the ranks of `hosts`; `netns` leads to each host's network namespace."""

    @abstractmethod
    def _kill(self, host: str) -> None:
        """Kill all that ranks of `host` run."""

    @abstractmethod
    def lost(self) -> list[str]:
        """Hosts whose parent process is gone."""

    @abstractmethod
    def memory_kills(self, host: str) -> int:
        """How many processes of `host` the kernel ended for want of memory."""

    @property
    def hosts(self) -> list[str]:
        """The hosts that have ranks, in the order of their first."""
        return list(dict.fromkeys(rank.host for rank in self.plan.workers.ranks))

    def processes_of(self, host: str) -> list[Rank]:
        """The ranks that the testbed starts on `host`."""
        return [rank for rank in self.plan.workers.processes if rank.host == host]

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """End every rank and remove what was made for them."""

    def start(self, netns: Mapping[str, int]) -> None:
        """Start all ranks; `netns` leads to each host's network namespace."""
        self._netns = dict(netns)
        self._starts.update(rank.rank for rank in self.plan.workers.processes)
        self._start(self.hosts, self._netns)

    def kill(self, hosts: Sequence[str]) -> None:
        """Kill the ranks of `hosts`, as the plan wants it."""
        for host in hosts:
            self._killed |= {
                (rank.rank, self._starts[rank.rank] - 1) for rank in self.processes_of(host)
            }
            self._kill(host)

    def start_again(self, hosts: Sequence[str]) -> None:
        """Start the ranks of `hosts`, which were killed, once more."""
        if hosts:
            self._starts.update(rank.rank for host in hosts for rank in self.processes_of(host))
            self._hosts_to_start -= len(hosts)
            self._start(hosts, self._netns)

    def wait(self) -> None:
        """Until every rank has ended well, or was killed as the plan wants it.

        Raises:
            WorkerError: one did not; the others are left to `__exit__`.
        """
        while True:
            lost = self.lost()  # before the exits are read: a parent that is done is not lost
            exits: dict[int, list[int]] = {rank.rank: [] for rank in self.plan.workers.processes}
            for record in read_records(
                self.run.rank_exits
            ):  # in the order of time: the first failure brings others
                rank, status = record["rank"], record["status"]
                if status != 0 and (rank, len(exits[rank])) not in self._killed:
                    time.sleep(LAST_WORDS_S)
                    raise WorkerError(self._failure(rank, status))
                exits[rank].append(status)
            running = [
                rank for rank, statuses in exits.items() if len(statuses) < self._starts[rank]
            ]
            if not running and self._over(exits):
                return
            for host in lost:
                missing = [rank.rank for rank in self.processes_of(host) if rank.rank in running]
                if missing:
                    raise WorkerError(self._failure(missing[0], None))
            time.sleep(POLL_S)

    def _over(self, exits: Mapping[int, list[int]]) -> bool:
        """Whether nothing more is to come, no rank being at work: those that are to start again
        have nobody to join.
        """
        return not self._hosts_to_start or any(statuses[-1] == 0 for statuses in exits.values())

    def _failure(self, rank: int, status: int | None) -> str:
        host = self.plan.workers.ranks[rank].host
        how = (
            "was lost"
            if status is None
            else f"was ended by signal {-status}"
            if status < 0
            else f"exited with {status}"
        )
        text = f"rank {rank} on {host} {how}"
        if killed := sorted({self.plan.workers.ranks[other].host for other, _ in self._killed}):
            text += f", after {', '.join(killed)} had crashed as the topology's events want it"
        if self.memory_kills(host):
            limit = self.plan.workers.memory_bytes / 2**20
            text += f": out of memory (the limit of a host is {limit:.0f} MiB)\n  raise it with --memory"
        log = self.run.rank_log(rank)
        if log.exists() and (lines := log.read_text(errors="replace").splitlines()):
            text += f"; the end of {log.relative_to(self.run.path)}:\n" + "\n".join(
                f"    {x}" for x in lines[-LOG_TAIL_LINES:]
            )
        return text


def send_orders(fifo: Path, orders: list[Order], alive: Path) -> None:
    """Hand `orders` to the parent that reads `fifo`, as soon as it does.

    Args:
        alive: a file that exists as long as the parent lives (its folder in /proc).

    Raises:
        WorkerError: it is gone.
    """
    while True:
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if not alive.exists():
                raise WorkerError(
                    f"the parent process of {', '.join(o.host for o in orders)} ended at its start"
                ) from None
            time.sleep(0.002)
            continue
        os.set_blocking(fd, True)
        with os.fdopen(fd, "w") as file:
            file.write(encode_orders(orders))
        return
