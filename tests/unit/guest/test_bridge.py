"""Bridges let guests of several machines do what guests of one machine do, in any order of events.

The guests are played here: each follows the protocol of the guests' kernel (9-sites.patch), and
what it does depends on all that it has seen before. Guests, bridges and messages take turns at
random.
"""

import heapq
import mmap
import random
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.guest import sites
from testbed.guest.bridge.library import bridge_library
from testbed.guest.bridge.link import BridgeLink
from testbed.guest.bridge.memory import BridgedMemory, Packets, Ring, SiteView
from testbed.guest.sites import NEVER, RING, RINGS_AT, SITE, SITES_AT, GuestLink, shared_clock

PACKET = struct.Struct("=I116xQQ")  # size, arrival, content: the header of site_packet and 8 bytes
HEAD_AT, TAIL_AT = 64, 128  # of a ring
UNTIL_NS = 3000
SEEDS = range(3)

# Four guests; the path from 0 to 3 is shorter by 1 and 2 than the link.
LINKS = [
    GuestLink((0, 1), (40, 35)),
    GuestLink((1, 2), (20, 60)),
    GuestLink((2, 3), (30, 25)),
    GuestLink((0, 3), (120, 50)),
    GuestLink((0, 2), (90, 45)),
]
GUESTS = 4
Arrival = tuple[int, int, int]  # time, order, content
MACHINES = [
    [[0], [1, 2, 3]],
    [[0, 2], [1, 3]],
    [[0, 3], [1], [2]],
    [[0], [1], [2, 3]],
    [[0], [1], [2], [3]],
]
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


class PlayedGuest:
    """A guest whose events follow from what it has seen, in one machine's memory."""

    def __init__(self, memory: mmap.mmap, number: int, bridged: BridgedMemory) -> None:
        self.number = number
        self.seen: list[tuple[int, int, int]] = []  # time, ring (-1: a timer), content
        self._memory = memory
        self._bridged = bridged
        self._out = [ring for ring in bridged.rings if ring.source == number]
        self._in = [ring for ring in bridged.rings if ring.target == number]
        self._timers = [7 + number]
        self._arrived: dict[int, list[Arrival]] = {ring.number: [] for ring in self._in}
        self._order = 0
        self._state = number
        self._now = 0
        self._horizon = 0
        self._unsent: deque[tuple[Ring, int, int]] = deque()

    @property
    def is_idle(self) -> bool:
        return not self._unsent and self._first() == NEVER

    def step(self) -> None:
        """Do the next thing, if it may be done."""
        if self._unsent:
            self._send_rest()
            return
        first_ns = self._first()
        if first_ns >= self._horizon or first_ns == NEVER:
            self._take()
            first_ns = self._first()
            self._publish(first_ns)
            self._horizon = self._earliest_from_others()
        if first_ns < self._horizon and first_ns < NEVER:
            self._publish(first_ns)
            self._now = first_ns
            self._act()

    def _first(self) -> int:
        first_ns = self._timers[0] if self._timers else NEVER
        for arrived in self._arrived.values():
            if arrived:
                first_ns = min(first_ns, arrived[0][0])
        return first_ns

    def _act(self) -> None:
        for ring, arrived in self._arrived.items():
            while arrived and arrived[0][0] <= self._now:
                time_ns, _order, content = heapq.heappop(arrived)
                assert time_ns == self._now
                self._see(ring, content)
        while self._timers and self._timers[0] <= self._now:
            heapq.heappop(self._timers)
            self._see(-1, 0)

    def _see(self, ring: int, content: int) -> None:
        self.seen.append((self._now, ring, content))
        self._state = zlib.crc32(struct.pack("=QQqQ", self._state, self._now, ring, content))
        chosen = random.Random(self._state)
        if self._now >= UNTIL_NS:
            return
        if ring == -1:
            # Now and then, a long time in which nothing happens.
            pause_ns = 400 if chosen.random() < 0.05 else chosen.randrange(1, 30)
            heapq.heappush(self._timers, self._now + pause_ns)
        for _packet in range(chosen.choice([0, 0, 1, 1, 3] if ring == -1 else [0, 0, 1])):
            out = chosen.choice(self._out)
            arrival_ns = self._now + out.delay_ns + chosen.choice([0, 0, 1, 17])
            self._unsent.append((out, arrival_ns, chosen.randrange(2**60)))

    def _send_rest(self) -> None:
        while self._unsent:
            ring, arrival_ns, content = self._unsent[0]
            head, tail = self._position(ring.number, HEAD_AT), self._position(ring.number, TAIL_AT)
            if head + PACKET.size - tail > sites.RING_BYTES:
                self._take()  # the other end may wait for this one
                return
            self._unsent.popleft()
            self._write(ring.number, head, PACKET.pack(PACKET.size, arrival_ns, content))
            self._set_position(ring.number, HEAD_AT, head + PACKET.size)
            back_ns = self._bridged.distance_ns(ring.target, self.number)
            self._horizon = min(self._horizon, arrival_ns + back_ns)
            if arrival_ns < self._next(ring.target):
                self._set_next(ring.target, arrival_ns)

    def _take(self) -> None:
        for ring in self._in:
            head, tail = self._position(ring.number, HEAD_AT), self._position(ring.number, TAIL_AT)
            while tail != head:
                packet = self._read(ring.number, tail)
                _size, arrival_ns, content = PACKET.unpack(packet)
                assert arrival_ns > self._now, "a packet has come too late"
                self._order += 1
                entry = (arrival_ns, self._order, content)
                heapq.heappush(self._arrived[ring.number], entry)
                tail += PACKET.size
            self._set_position(ring.number, TAIL_AT, tail)

    def _earliest_from_others(self) -> int:
        first_ns = NEVER
        for other in range(self._bridged.guests):
            if other != self.number:
                distance_ns = self._bridged.distance_ns(other, self.number)
                first_ns = min(first_ns, self._next(other) + distance_ns)
        return first_ns

    def _publish(self, time_ns: int) -> None:
        self._set_next(self.number, time_ns)

    def _next(self, number: int) -> int:
        return int(struct.unpack_from("=Q", self._memory, SITES_AT + number * SITE.size)[0])

    def _set_next(self, number: int, time_ns: int) -> None:
        struct.pack_into("=Q", self._memory, SITES_AT + number * SITE.size, time_ns)

    def _position(self, ring: int, which: int) -> int:
        at = RINGS_AT + ring * RING.size + which
        return int(struct.unpack_from("=Q", self._memory, at)[0])

    def _set_position(self, ring: int, which: int, value: int) -> None:
        struct.pack_into("=Q", self._memory, RINGS_AT + ring * RING.size + which, value)

    def _place(self, ring: int, at: int) -> tuple[int, int]:
        """Where a packet begins, and where it goes on after the end of the ring's bytes."""
        _source, _target, _delay, offset, size, *_rest = RING.unpack_from(
            self._memory, RINGS_AT + ring * RING.size
        )
        return offset + at % size, offset + size

    def _write(self, ring: int, at: int, data: bytes) -> None:
        begin, end = self._place(ring, at)
        first = min(len(data), end - begin)
        self._memory[begin : begin + first] = data[:first]
        again = end - sites.RING_BYTES
        self._memory[again : again + len(data) - first] = data[first:]

    def _read(self, ring: int, at: int) -> bytes:
        begin, end = self._place(ring, at)
        first = min(PACKET.size, end - begin)
        again = end - sites.RING_BYTES
        rest = PACKET.size - first
        return self._memory[begin : begin + first] + self._memory[again : again + rest]


class InterruptedMemory(BridgedMemory):
    """Memory in which guests go on while the bridge works on it."""

    def __init__(self, descriptor: int, library: Path) -> None:
        super().__init__(descriptor, library)
        self.go_on: Callable[[], None] = lambda: None

    def read(self) -> list[SiteView]:
        self.go_on()
        views = super().read()
        self.go_on()
        return views

    def take(self, ring: int) -> Packets:
        packets = super().take(ring)
        self.go_on()
        return packets

    def put(self, ring: int, packets: Packets) -> bool:
        self.go_on()
        return super().put(ring, packets)

    def write(self, views: Mapping[int, SiteView]) -> None:
        self.go_on()
        super().write(views)


class PlayedMachine:
    """A machine: its memory, its guests, and its bridge."""

    def __init__(
        self, bridged: InterruptedMemory, memory: mmap.mmap, guests: Sequence[int]
    ) -> None:
        self.bridged = bridged
        self.guests = [PlayedGuest(memory, number, bridged) for number in guests]
        self.links: list[
            tuple[BridgeLink, deque[bytes], deque[bytes]]
        ] = []  # with inbox and outbox

    def work(self) -> Iterator[None]:
        """What the bridge does; others take turns with it after each yield."""
        while True:
            for link, inbox, _outbox in self.links:
                if not link.go_on():
                    continue
                yield
                if inbox:
                    link.begin(inbox.popleft())
                    link.go_on()
                    yield
            views = self.views()
            yield
            for link, _inbox, outbox in self.links:
                if link.has_news(views):
                    outbox.append(link.message(views))
                link.expect()
                yield

    def views(self) -> list[SiteView]:
        return self.bridged.read()

    @property
    def is_quiet(self) -> bool:
        quiet = all(guest.is_idle for guest in self.guests)
        for link, inbox, _outbox in self.links:
            quiet = quiet and not inbox and link.go_on() and not link.has_news(self.views())
        return quiet


def run(
    groups: Sequence[Sequence[int]], seed: int, ring_bytes: int, stack: ExitStack
) -> list[list[tuple[int, int, int]]]:
    """What each guest has seen, with the guests on so many machines; the first is the hub."""
    library = bridge_library()
    machines: list[PlayedMachine] = []
    for place, group in enumerate(groups):
        others = [other for other in range(GUESTS) if other not in group]
        beyond = [others] if place else list(groups[1:])
        clock = stack.enter_context(shared_clock(GUESTS, LINKS, beyond))
        memory = mmap.mmap(clock.descriptor, 0)
        machines.append(PlayedMachine(InterruptedMemory(clock.descriptor, library), memory, group))
    hub = machines[0]
    for spoke, group in zip(machines[1:], groups[1:], strict=True):
        there: deque[bytes] = deque()
        back: deque[bytes] = deque()
        others = [other for other in range(GUESTS) if other not in group]
        hub.links.append((BridgeLink(hub.bridged, group), back, there))
        spoke.links.append((BridgeLink(spoke.bridged, others), there, back))

    chosen = random.Random(seed)
    guests: list[PlayedGuest] = []
    for machine in machines:
        guests += machine.guests
    works = [machine.work() for machine in machines if machine.links]

    def go_on() -> None:
        for _step in range(chosen.choice([0, 0, 1, 20])):
            chosen.choice(guests).step()

    for machine in machines:
        machine.bridged.go_on = go_on
    while not all(machine.is_quiet for machine in machines):
        for _turn in range(200):
            if works and chosen.random() < 0.4:
                next(chosen.choice(works))
            else:
                chosen.choice(guests).step()
    guests.sort(key=lambda guest: guest.number)
    return [guest.seen for guest in guests]


@needs_compiler
@pytest.mark.parametrize("groups", MACHINES, ids=str)
@pytest.mark.parametrize("ring_bytes", [3 * PACKET.size, 2**16])
def test_several_machines_do_what_one_does(
    groups: list[list[int]], ring_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with rings that are full most of the time."""
    monkeypatch.setattr(sites, "RING_BYTES", ring_bytes)
    with ExitStack() as stack:
        one = run([range(GUESTS)], 0, ring_bytes, stack)
        assert min(len(seen) for seen in one) > 100
        packets = 0
        for seen in one:
            packets += sum(ring >= 0 for _time, ring, _content in seen)
        assert packets > 250
        for seed in SEEDS:
            assert run(groups, seed, ring_bytes, stack) == one
