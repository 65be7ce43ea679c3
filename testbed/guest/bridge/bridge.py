"""Exchange packets and progress with the bridges of other machines while guests run."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from testbed.guest.bridge.connection import BridgeConnection
from testbed.guest.bridge.link import BridgeLink
from testbed.guest.bridge.memory import BridgedMemory, SiteView

# A guest that may go on is reported at once; the rest at least so often, in s of wall time.
REPORT_S = 0.005
IDLE_REPORT_S = 0.02
WAKE_MS = 200  # the waker looks so often whether it should end


class BridgeEnd:
    """One connection of a bridge: what is said over it, and the connection itself."""

    def __init__(self, link: BridgeLink, connection: BridgeConnection) -> None:
        """Join a link and a connection."""
        self.link = link
        self.connection = connection
        self.waiting: deque[bytes] = deque()  # messages that are not applied yet
        self.sent_at = 0.0

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let an error of the connection name the guests beyond.

        Raises:
            ConnectionError: the connection is lost.
        """
        try:
            yield
        except OSError as error:
            guests = ", ".join(map(str, sorted(self.link.beyond)))
            message = f"the connection to the machine of guest {guests} is lost: {error}"
            raise ConnectionError(message) from error


class MachineBridge:
    """The bridge of a machine: two threads, which end with the process or with `stop`.

    Attributes:
        failure: why the bridge has stopped; empty while it works.
        messages: number of messages sent.
    """

    def __init__(self, memory: BridgedMemory, ends: Sequence[BridgeEnd]) -> None:
        """Start the bridge.

        Args:
            memory: the memory of the machine's guests.
            ends: a connection for each machine to which this one is connected.
        """
        self._memory = memory
        self._ends = list(ends)
        self._stopped = False
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.failure = ""
        self.messages = 0
        for work in (self._carry, self._watch) if ends else ():
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """End the threads soon, and the connections with them."""
        self._stopped = True

    def _watch(self) -> None:
        """Let `_carry` know when a guest of another machine may go on."""
        beyond: set[int] = set()
        for end in self._ends:
            beyond |= end.link.beyond
        seen = self._memory.no_wakes()
        while not self._stopped:
            if self._memory.wait(beyond, seen, WAKE_MS):
                os.eventfd_write(self._woken, 1)

    def _carry(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ)
                for end in self._ends:
                    selector.register(end.connection, selectors.EVENT_READ)
                    end.link.expect()
                pause_s = REPORT_S
                while not self._stopped:
                    selector.select(pause_s)
                    self._forget_wakes()
                    self._receive()
                    pause_s = REPORT_S if self._send() else IDLE_REPORT_S
        except ConnectionError as error:
            self.failure = str(error)
        except BaseException as error:
            self.failure = f"the connection between machines failed: {error!r}"
            raise
        finally:
            for end in self._ends:
                end.connection.close()

    def _forget_wakes(self) -> None:
        try:
            os.eventfd_read(self._woken)
        except BlockingIOError:
            return

    def _receive(self) -> None:
        for end in self._ends:
            with end.named():
                end.waiting += end.connection.receive()
            while end.link.go_on() and end.waiting:
                end.link.begin(end.waiting.popleft())

    def _send(self) -> bool:
        """Send what others want to know; return whether there is news."""
        now = time.monotonic()
        seen = self._memory.read()
        views = self._described(seen)
        is_new = False
        for end in self._ends:
            with end.named():
                end.connection.flush()
            if end.connection.is_behind or not end.link.has_news(views):
                continue
            is_new = True
            if not end.link.is_wanted(seen) and now < end.sent_at + REPORT_S:
                continue
            message = end.link.message(views)
            with end.named():
                end.connection.send(message)
            end.link.expect()
            end.sent_at = now
            self.messages += 1
        return is_new

    def _described(self, seen: list[SiteView]) -> list[SiteView]:
        """Return the views of all guests; what those of other machines want, they have said."""
        views = list(seen)
        for end in self._ends:
            for number, said in end.link.views.items():
                views[number] = views[number]._replace(target_ns=said.target_ns, waits=said.waits)
        return views
