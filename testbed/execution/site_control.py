"""Messages between the guests of a run: meeting points, the time of the first operation, failures.

Guest 0 has rank 0 and leads. Messages travel on the virtual clock over a link of their own, which
takes as long as the shortest link between guests, so what guests do does not depend on how fast the
machine runs which of them.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections import Counter
from typing import Any, Self

from testbed.core.errors import RunError
from testbed.network.rtnetlink import netlink
from testbed.plan.model import GuestSite, site_device

ETHER_TYPE = 0x88B5  # IEEE 802, for local experiments
BROADCAST = b"\xff" * 6
LONGEST = 1400  # bytes of a message
FAILED_ELSEWHERE = "the run failed in another guest"


class SiteControl:
    """The messages of one guest; without other guests, nothing waits for anything."""

    def __init__(self, site: GuestSite | None) -> None:
        """Prepare the messages of the guest that builds `site`; None: the only guest."""
        self._site = site
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()  # of what follows
        self._arrived: Counter[str] = Counter()  # guests, by meeting point
        self._goes: dict[str, int] = {}  # when to go on, in Unix ns, by meeting point
        self._began_ns: int | None = None
        self._failure = ""

    def __enter__(self) -> Self:
        if self._site is not None:
            for number in self._site.control_devices:
                self._sockets.append(_open(site_device(number)))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and FAILED_ELSEWHERE not in str(error):
            self._send({"failed": str(error)[: LONGEST // 2]})
        for connection in self._sockets:
            connection.close()

    @property
    def number(self) -> int:
        """Number of this guest."""
        return 0 if self._site is None else self._site.number

    @property
    def leads(self) -> bool:
        """Whether this guest has rank 0."""
        return self.number == 0

    def meet(self, point: str) -> None:
        """Wait until all guests are at this point; all go on at the same time.

        Raises:
            RunError: the run failed in another guest.
        """
        if self._site is None:
            return
        if self.leads:
            self._await_arrivals(point)
            go_ns = time.time_ns() + 2 * self._site.control_delay_ns
            self._send({"go": point, "at_ns": go_ns})
        else:
            self._send({"at": point})
            go_ns = self._await_go(point)
        time.sleep(max(0, go_ns - time.time_ns()) / 1e9)

    def turns(self, point: str, guests: int) -> Any:
        """Yield whether it is this guest's turn, once for each of `guests`, one after the other."""
        for number in range(guests):
            self.meet(f"{point} {number}")
            yield number == self.number

    def tell_began(self, began_ns: int) -> None:
        """Tell the other guests when the first operation began, in Unix ns."""
        self._send({"began_ns": began_ns})

    def began_ns(self) -> int | None:
        """Return when the first operation began, as guest 0 has told it; None: unknown so far."""
        self._receive(0)
        with self._lock:
            return self._began_ns

    def look(self) -> None:
        """Look for messages.

        Raises:
            RunError: the run failed in another guest.
        """
        if self._site is None:
            return
        self._receive(0)
        self._check()

    def _await_arrivals(self, point: str) -> None:
        while True:
            with self._lock:
                if self._arrived[point] == len(self._sockets):
                    return
            self._receive(None)
            self._check()

    def _await_go(self, point: str) -> int:
        while True:
            with self._lock:
                if point in self._goes:
                    return self._goes[point]
            self._receive(None)
            self._check()

    def _check(self) -> None:
        with self._lock:
            if self._failure:
                raise RunError(f"{FAILED_ELSEWHERE}: {self._failure}")

    def _send(self, message: dict[str, Any], but: socket.socket | None = None) -> None:
        data = json.dumps(message).encode()
        for connection in self._sockets:
            if connection is not but:
                address = (connection.getsockname()[0], ETHER_TYPE, 0, 0, BROADCAST)
                connection.sendto(data, address)

    def _receive(self, timeout_s: float | None) -> None:
        """Take the messages that have arrived; wait for one, at most `timeout_s`."""
        ready, _, _ = select.select(self._sockets, [], [], timeout_s)
        for connection in ready:
            try:
                data, _address = connection.recvfrom(LONGEST + 100)
            except BlockingIOError:  # another thread was faster
                continue
            message = json.loads(data.rstrip(b"\0"))
            with self._lock:
                self._note(message)
            if "failed" in message and self.leads:
                self._send(message, but=connection)

    def _note(self, message: dict[str, Any]) -> None:
        if "at" in message:
            self._arrived[message["at"]] += 1
        elif "go" in message:
            self._goes[message["go"]] = message["at_ns"]
        elif "began_ns" in message:
            self._began_ns = message["began_ns"]
        elif "failed" in message:
            self._failure = self._failure or message["failed"]


def _open(device: str) -> socket.socket:
    """Return a socket for messages over a device, which is set up."""
    with netlink(os.getpid()) as link:
        link.set_link(link.index_of(device), up=True)
    connection = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETHER_TYPE))
    connection.bind((device, ETHER_TYPE))
    connection.setblocking(False)
    return connection
