"""Lay out the memory by which several guests share a virtual clock, and the links between them.

The guests' kernels read and write the memory themselves (arch/um/include/shared/sites.h, in the
kernel's patch ``9-sites.patch``): no process outside takes part in a run. The layout must equal the
kernel's.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from testbed.core.errors import MachineError
from testbed.spec.options import MOST_GUESTS

MAGIC = 0x3153_4554_4953_4D55
NEVER = 2**63 - 1
HEADER = struct.Struct("=QIIQI36x")
SITE = struct.Struct("=QQQIIIIQQQQQ48x")
RING = struct.Struct("=IIQQQ32xQ56xQ56x")
DISTANCES_AT = HEADER.size
SITES_AT = DISTANCES_AT + MOST_GUESTS * MOST_GUESTS * 8
RINGS_AT = SITES_AT + MOST_GUESTS * SITE.size
RING_BYTES = 2**23  # of packets that the receiving kernel has not taken over yet
PAGE = 4096


@dataclass(frozen=True)
class GuestLink:
    """A link between two guests.

    Attributes:
        ends: numbers of the guests.
        delays_ns: the least time that a packet takes from the first end, and from the second.
    """

    ends: tuple[int, int]
    delays_ns: tuple[int, int]


@dataclass(frozen=True)
class SiteWork:
    """What a guest's kernel has noted about its site.

    Attributes:
        waits: how often the kernel waited for other guests.
        waited_s: wall time for which the kernel waited for other guests, in seconds.
        packets: number of packets sent to other guests.
        bytes: number of bytes sent to other guests.
        hasty: number of packets that came earlier than the link's least delay allows; a run with
            any is not exact.
    """

    waits: int
    waited_s: float
    packets: int
    bytes: int
    hasty: int


@dataclass(frozen=True)
class SharedClock:
    """Memory of a simulation in several guests.

    Attributes:
        descriptor: file descriptor of the memory, for the guests' kernels.
        guests: number of guests.
    """

    descriptor: int
    guests: int

    def work(self, number: int) -> SiteWork:
        """Return what the kernel of guest `number` has noted so far."""
        data = os.pread(self.descriptor, SITE.size, SITES_AT + number * SITE.size)
        *_state, waited, waited_ns, packets, sent_bytes, hasty = SITE.unpack(data)
        return SiteWork(waited, waited_ns / 1e9, packets, sent_bytes, hasty)


@contextmanager
def shared_clock(
    guests: int, links: Sequence[GuestLink], beyond: Sequence[Collection[int]] = ()
) -> Iterator[SharedClock]:
    """Create the memory of a simulation for the duration of the block.

    Args:
        guests: number of guests.
        links: links between guests; link n is device n of both of its ends.
        beyond: guests that run on other machines, a group for each connection to one
            (`testbed.guest.bridge`). A guest of a group is woken as far as the others allow it:
            its machine knows better how far the rest of the group is.

    Raises:
        MachineError: there are too many guests, or the memory cannot be created.
    """
    if guests > MOST_GUESTS:
        raise MachineError(f"a run can have at most {MOST_GUESTS} guests, not {guests}")
    rings_at = RINGS_AT + 2 * len(links) * RING.size
    first_ring = -(-rings_at // PAGE) * PAGE
    size = first_ring + 2 * len(links) * RING_BYTES
    try:
        descriptor = os.memfd_create("testbed-sites", os.MFD_CLOEXEC)
    except OSError as error:
        raise MachineError(f"cannot create memory for guests: {error.strerror}") from error
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, rings_at) as memory:
            _fill(memory, guests, links, first_ring, size)
            for group in beyond:
                _separate(memory, group)
        yield SharedClock(descriptor, guests)
    finally:
        os.close(descriptor)


def _fill(
    memory: mmap.mmap, guests: int, links: Sequence[GuestLink], first_ring: int, size: int
) -> None:
    HEADER.pack_into(memory, 0, MAGIC, guests, 2 * len(links), size, 0)
    for row, distances in enumerate(least_distances_ns(guests, links)):
        at = DISTANCES_AT + row * MOST_GUESTS * 8
        struct.pack_into(f"={guests}Q", memory, at, *distances)
    for number in range(guests):
        SITE.pack_into(
            memory, SITES_AT + number * SITE.size, 0, NEVER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        )

    ring = 0
    for link in links:
        first, second = link.ends
        for source, target, delay_ns in (
            (first, second, link.delays_ns[0]),
            (second, first, link.delays_ns[1]),
        ):
            RING.pack_into(
                memory,
                RINGS_AT + ring * RING.size,
                source,
                target,
                max(1, delay_ns),
                first_ring + ring * RING_BYTES,
                RING_BYTES,
                0,
                0,
            )
            ring += 1


def _separate(memory: mmap.mmap, group: Collection[int]) -> None:
    """Let the guests of a group not wait for each other in this memory."""
    for source in group:
        for target in group:
            at = DISTANCES_AT + (source * MOST_GUESTS + target) * 8
            struct.pack_into("=Q", memory, at, NEVER)


def least_distances_ns(guests: int, links: Sequence[GuestLink]) -> list[list[int]]:
    """Return the least time in which one guest can change another, by any path, in ns.

    Args:
        guests: number of guests.
        links: links between guests.

    Returns:
        A row for each guest, with a column for each guest (Floyd and Warshall's algorithm); `NEVER`
        without a path.
    """
    distances = [[NEVER] * guests for _guest in range(guests)]
    for link in links:
        first, second = link.ends
        forward_ns, backward_ns = (max(1, delay_ns) for delay_ns in link.delays_ns)
        distances[first][second] = min(distances[first][second], forward_ns)
        distances[second][first] = min(distances[second][first], backward_ns)

    for via in range(guests):
        for source in range(guests):
            for target in range(guests):
                detour = distances[source][via] + distances[via][target]
                distances[source][target] = min(distances[source][target], detour)
    return distances
