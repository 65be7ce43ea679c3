"""The protocol between two machines: what their bridges tell each other, and in which order.

A message has the packets for guests beyond the link, and how far the guests on this side are. The
guests are read first and the rings emptied afterwards, so every packet that a guest had sent when
it was read is in this message or in an earlier one. The receiver puts the packets in before it
lets its guests know how far the senders are, so no guest advances past a packet.

What is said about a guest does not yet count the packets that are on their way to it. Each message
therefore says up to which byte of each ring packets are counted; for later packets, the sender
takes the least of what the guest's machine says and of the times at which they arrive. As a machine
describes its neighbours' guests in the same way to others, this holds for machines in a star, too.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from testbed.guest.bridge.memory import BridgedMemory, Packets, SiteView
from testbed.guest.sites import NEVER

# The part of the delay between two guests by which one may be ahead of what the other knows.
EAGERNESS = 4
NUMBERS = struct.Struct("=II")  # pieces, acknowledgements
PIECE = struct.Struct("=IIQ")  # ring, bytes, first arrival
COUNTED = struct.Struct("=IQ")  # ring, bytes counted since the beginning
VIEW = struct.Struct("=IQQII")  # guest, and its view


class _OnItsWay(NamedTuple):
    """Packets that the other machine has not counted yet.

    Attributes:
        end: position of their last byte in all bytes of the ring.
        first_ns: the time at which the first of them arrives.
    """

    end: int
    first_ns: int


class BridgeLink:
    """One end of the connection between two machines."""

    def __init__(self, memory: BridgedMemory, beyond: Collection[int]) -> None:
        """Prepare an end of a connection.

        Args:
            memory: the memory of this machine.
            beyond: numbers of the guests that run beyond the connection.
        """
        self.beyond = frozenset(beyond)
        self._memory = memory
        self._near = [number for number in range(memory.guests) if number not in self.beyond]
        self._out: list[int] = []
        self._target: dict[int, int] = {}
        self._counted: dict[int, int] = {}  # bytes that were put in here
        for ring in memory.rings:
            if ring.target in self.beyond and ring.source not in self.beyond:
                self._out.append(ring.number)
                self._target[ring.number] = ring.target
            elif ring.source in self.beyond and ring.target not in self.beyond:
                self._counted[ring.number] = 0
        self._taken = dict.fromkeys(self._out, 0)
        self._on_their_way: dict[int, deque[_OnItsWay]] = {ring: deque() for ring in self._out}
        self._told: dict[int, SiteView] = dict.fromkeys(self._near, SiteView(0, 0, 0, 0))
        self._told_counted = dict(self._counted)
        self.views: dict[int, SiteView] = {}  # as the other machine describes its guests
        self._unapplied: Iterator[None] | None = None

    def has_news(self, views: list[SiteView]) -> bool:
        """Return whether the other machine lacks something of `views`, or of what has come here."""
        if self._told_counted != self._counted:
            return True
        if any(self._memory.holds_packets(ring) for ring in self._out):
            return True
        return any(self._told[number] != views[number] for number in self._near)

    def is_wanted(self, seen: list[SiteView]) -> bool:
        """Return whether a guest beyond may go on, or soon has to wait, as far as is seen here.

        Args:
            seen: what the memory says of all guests.
        """
        return any(not seen[number].waits for number in self.beyond)

    def message(self, views: list[SiteView]) -> bytes:
        """Take the packets for guests beyond, and return the message with them.

        Args:
            views: what the memory says of all guests, read before this call; of guests of other
                machines, `waits` and `target_ns` as their machines say.
        """
        pieces: list[bytes] = []
        for ring in self._out:
            while True:
                packets = self._memory.take(ring)
                if not packets.data:
                    break
                self._taken[ring] += len(packets.data)
                on_its_way = _OnItsWay(self._taken[ring], packets.first_ns)
                self._on_their_way[ring].append(on_its_way)
                pieces += [PIECE.pack(ring, len(packets.data), packets.first_ns), packets.data]
        parts = [NUMBERS.pack(len(pieces) // 2, len(self._counted)), *pieces]
        for ring, counted in self._counted.items():
            parts.append(COUNTED.pack(ring, counted))
        for number in self._near:
            parts.append(VIEW.pack(number, *views[number]))
            self._told[number] = views[number]
        self._told_counted = dict(self._counted)
        return b"".join(parts)

    def begin(self, message: bytes) -> None:
        """Take over a message of the other machine; `go_on` applies it."""
        assert self._unapplied is None
        self._unapplied = self._apply(message)

    def go_on(self) -> bool:
        """Apply the message that `begin` has taken over; return False if a ring has no room yet."""
        if self._unapplied is None:
            return True
        for _full_ring in self._unapplied:
            return False
        self._unapplied = None
        return True

    def expect(self) -> None:
        """Let the memory say when the guests beyond have to be told more."""
        expected: dict[int, SiteView] = {}
        for number in self.beyond:
            told_ns, step_ns = NEVER, NEVER
            for near in self._near:
                distance_ns = self._memory.distance_ns(near, number)
                told_ns = min(told_ns, self._told[near].next_ns + distance_ns)
                step_ns = min(step_ns, max(1, distance_ns // EAGERNESS))
            target_ns = min(NEVER - 1, told_ns + step_ns)
            view = self.views.get(number)
            if view is not None and view.waits and view.target_ns >= told_ns:
                target_ns = view.target_ns
            waits = told_ns < NEVER and target_ns < NEVER
            expected[number] = SiteView(0, target_ns, int(waits), 0)
        self._memory.expect(expected)

    def _apply(self, message: bytes) -> Iterator[None]:
        """Apply a message; yield while a ring has no room for its packets."""
        pieces, counts = NUMBERS.unpack_from(message, 0)
        at = NUMBERS.size
        for _piece in range(pieces):
            ring, length, first_ns = PIECE.unpack_from(message, at)
            at += PIECE.size
            packets = Packets(message[at : at + length], first_ns)
            at += length
            while not self._memory.put(ring, packets):
                yield
            self._counted[ring] += length
        for _count in range(counts):
            ring, counted = COUNTED.unpack_from(message, at)
            at += COUNTED.size
            on_their_way = self._on_their_way[ring]
            while on_their_way and on_their_way[0].end <= counted:
                on_their_way.popleft()
        for fields in VIEW.iter_unpack(message[at:]):
            self.views[fields[0]] = SiteView(*fields[1:])
        self._memory.write(self._views_with_packets())

    def _views_with_packets(self) -> dict[int, SiteView]:
        """Return what is known of the guests beyond, with the packets on their way to them."""
        views = dict(self.views)
        for ring, on_their_way in self._on_their_way.items():
            view = views[self._target[ring]]
            if view.gone:
                continue
            first_ns = min((packets.first_ns for packets in on_their_way), default=NEVER)
            views[self._target[ring]] = view._replace(next_ns=min(view.next_ns, first_ns))
        return views
