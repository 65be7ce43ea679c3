"""Orders to the zygote: the ranks to fork, sent as lines of JSON through a FIFO.

Requests to a resident guest go through files instead (`testbed.guest.channel`), because no event on
the host can wake a process of the guest; the guest polls. Both ends of the FIFO are processes of
one kernel. The FIFO wakes the zygote at the moment of an order, together with the end of a child.
Polling would move the moment at which a rank begins on the virtual clock. Orders have no replies:
each exit is a record of the run (`testbed.runfolder.records.RankExit`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed.core.errors import WorkerError

CHUNK_BYTES = 1 << 16
RETRY_S = 0.002  # between attempts, until the zygote has opened its FIFO


@dataclass(frozen=True)
class HostView:
    """How a host sees the run folder: read-only, with these exceptions.

    Attributes:
        run_folder: the run folder.
        pipes: the folder of pipes that is in place of the records.
        records: the folder of the records.
        work: a folder that the host may write to; None: none.
    """

    run_folder: str
    pipes: str
    records: str
    work: str | None = None


@dataclass(frozen=True)
class Order:
    """Order to start one rank, or a server of a host.

    A field that is None leaves the zygote's value unchanged.

    Attributes:
        rank: number of the rank; for a server, of the host's first rank.
        host: name of the rank's host.
        cgroup: folder of the host's control group.
        netns_pid: a process in the host's network namespace (process isolation).
        shm: folder that is the host's /dev/shm (process isolation).
        view: what the host may write to in the run folder (process isolation).
        container_pid: the first process of the host's container.
        user: the container's user and group.
        is_server: whether to start, instead of the rank, the server that runs commands of other
            hosts.
    """

    rank: int
    host: str
    cgroup: str | None = None
    netns_pid: int | None = None
    shm: str | None = None
    view: HostView | None = None
    container_pid: int | None = None
    user: tuple[int, int] | None = None
    is_server: bool = False


def encode_orders(orders: list[Order]) -> str:
    """Return orders as one line for the FIFO."""
    return json.dumps([asdict(order) for order in orders]) + "\n"


def decode_orders(line: str) -> list[Order]:
    """Return the orders of a line."""
    orders: list[Order] = []
    for fields in json.loads(line):
        if fields["view"] is not None:
            fields["view"] = HostView(**fields["view"])
        orders.append(Order(**fields))
    return orders


def send_orders(fifo: Path, orders: list[Order], alive: Path) -> None:
    """Send `orders` to the zygote that reads `fifo`, as soon as the zygote has opened the FIFO.

    Args:
        fifo: the zygote's FIFO.
        orders: orders for one or several hosts.
        alive: a file that exists as long as the zygote lives (in the zygote's folder of /proc).

    Raises:
        WorkerError: the zygote has ended.
    """
    while True:
        try:
            fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise

        if not alive.exists():
            hosts = ", ".join(order.host for order in orders)
            raise WorkerError(f"the parent process of {hosts} ended at its start")

        time.sleep(RETRY_S)

    os.set_blocking(fd, True)
    with os.fdopen(fd, "w") as file:
        file.write(encode_orders(orders))


class LaterOrders:
    """Orders that arrive during the run, to restart the ranks of crashed hosts."""

    def __init__(self, fifo: Path) -> None:
        # open for writing too, so that the FIFO never reaches its end
        self._fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    def close(self) -> None:
        """Close the FIFO in a process that may not give orders."""
        os.close(self._fd)

    def wait(self, children: Sequence[int]) -> list[Order]:
        """Wait for orders, or for the end of a child.

        Args:
            children: process ids of the children.

        Returns:
            The orders that have arrived; empty if a child has ended first.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        child_fds = []

        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                child_fds.append(os.pidfd_open(pid))
                poll.register(child_fds[-1], select.POLLIN)

        readable = [fd for fd, _events in poll.poll()]
        for fd in child_fds:
            os.close(fd)

        if self._fd in readable:
            self._text += os.read(self._fd, CHUNK_BYTES).decode()

        *lines, self._text = self._text.split("\n")
        orders = []
        for line in lines:
            orders.extend(decode_orders(line))

        return orders
