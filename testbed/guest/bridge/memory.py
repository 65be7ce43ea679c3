"""Access the memory of a machine's guests as a bridge does, through the library of ``memory.c``."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from testbed.guest.sites import DISTANCES_AT, HEADER, RING, RINGS_AT
from testbed.spec.options import MOST_GUESTS

MOST_TAKEN = 2**20  # bytes of packets in one piece of a message


class SiteView(NamedTuple):
    """How far a guest is.

    Attributes:
        next_ns: the guest does nothing earlier, unless a packet brings it.
        target_ns: while the guest waits: the time to which it wants to advance.
        waits: 1 if the guest waits for others, else 0.
        gone: 1 if the guest has ended, else 0.
    """

    next_ns: int
    target_ns: int
    waits: int
    gone: int


VIEW = struct.Struct("=QQII")


@dataclass(frozen=True)
class Ring:
    """The packets of one direction of a link.

    Attributes:
        number: number of the ring in the memory.
        source: number of the guest that sends.
        target: number of the guest that receives.
        delay_ns: the least time that a packet takes.
    """

    number: int
    source: int
    target: int
    delay_ns: int


class Packets(NamedTuple):
    """Packets that were taken out of a ring.

    Attributes:
        data: their bytes, as they are in a ring.
        first_ns: the time at which the first of them arrives.
    """

    data: bytes
    first_ns: int


class BridgedMemory:
    """The memory of one machine's guests."""

    def __init__(self, descriptor: int, library: Path) -> None:
        """Map the memory.

        Args:
            descriptor: file descriptor of the memory (`testbed.guest.sites.SharedClock`).
            library: the compiled ``memory.c``.

        Raises:
            OSError: the library cannot be loaded.
        """
        size = os.fstat(descriptor).st_size
        self._map = mmap.mmap(descriptor, size)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        _magic, self.guests, rings, _size, _lock = HEADER.unpack_from(self._map, 0)
        self.rings = [_ring(self._map, number) for number in range(rings)]
        self._library = _loaded(library)
        self._buffer = ctypes.create_string_buffer(MOST_TAKEN)
        self._first = ctypes.c_uint64()
        self._views = ctypes.create_string_buffer(VIEW.size * self.guests)

    def distance_ns(self, source: int, target: int) -> int:
        """Return the least time in which guest `source` can change guest `target`."""
        at = DISTANCES_AT + (source * MOST_GUESTS + target) * 8
        return int(struct.unpack_from("=Q", self._map, at)[0])

    def read(self) -> list[SiteView]:
        """Return how far each guest is, all at one moment."""
        self._library.bridge_read(self._address, self._views)
        return [SiteView(*fields) for fields in VIEW.iter_unpack(self._views.raw)]

    def write(self, views: Mapping[int, SiteView]) -> None:
        """Set how far guests of other machines are, and wake the guests that may go on."""
        self._library.bridge_write(self._address, _mask(views), self._packed(views))

    def expect(self, views: Mapping[int, SiteView]) -> None:
        """Note to which times guests of other machines want to advance.

        `wait` ends, and `waits` is 0 in what `read` returns, once one of them may do so.
        """
        self._library.bridge_expect(self._address, _mask(views), self._packed(views))

    def holds_packets(self, ring: int) -> bool:
        """Return whether there are packets in a ring."""
        fields = RING.unpack_from(self._map, RINGS_AT + ring * RING.size)
        head, tail = fields[-2:]
        return bool(head != tail)

    def take(self, ring: int) -> Packets:
        """Take packets out of a ring, at most `MOST_TAKEN` bytes; without any, no bytes."""
        length = self._library.bridge_take(
            self._address, ring, self._buffer, MOST_TAKEN, ctypes.byref(self._first)
        )
        return Packets(self._buffer.raw[:length] if length else b"", self._first.value)

    def put(self, ring: int, packets: Packets) -> bool:
        """Put packets into a ring; return False if there is no room yet."""
        data, first_ns = packets
        put: int = self._library.bridge_put(self._address, ring, data, len(data), first_ns)
        return bool(put)

    def wait(self, guests: Iterable[int], seen: ctypes.Array[ctypes.c_uint32], most_ms: int) -> int:
        """Wait until one of `guests` is woken, which run on other machines.

        Args:
            guests: numbers of the guests.
            seen: how often each was woken (`no_wakes` at first); is brought up to date.
            most_ms: the longest wait.

        Returns:
            1 if one was woken, else 0.
        """
        mask = _mask(guests)
        return int(self._library.bridge_wait(self._address, mask, seen, most_ms))

    def no_wakes(self) -> ctypes.Array[ctypes.c_uint32]:
        """Return the counters for `wait`."""
        wakes: ctypes.Array[ctypes.c_uint32] = (ctypes.c_uint32 * self.guests)()
        return wakes

    def _packed(self, views: Mapping[int, SiteView]) -> ctypes.Array[ctypes.c_char]:
        packed = ctypes.create_string_buffer(VIEW.size * self.guests)
        for number, view in views.items():
            VIEW.pack_into(packed, number * VIEW.size, *view)
        return packed


def _ring(memory: mmap.mmap, number: int) -> Ring:
    source, target, delay_ns, *_rest = RING.unpack_from(memory, RINGS_AT + number * RING.size)
    return Ring(number, source, target, delay_ns)


def _mask(guests: Iterable[int]) -> int:
    mask = 0
    for number in guests:
        mask |= 1 << number
    return mask


def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    memory, buffer = ctypes.c_void_p, ctypes.c_char_p
    number, size = ctypes.c_uint32, ctypes.c_uint64
    library.bridge_read.argtypes = [memory, buffer]
    library.bridge_read.restype = None
    library.bridge_write.argtypes = [memory, size, buffer]
    library.bridge_write.restype = None
    library.bridge_expect.argtypes = [memory, size, buffer]
    library.bridge_expect.restype = None
    library.bridge_take.argtypes = [memory, number, buffer, size, ctypes.POINTER(size)]
    library.bridge_take.restype = size
    library.bridge_put.argtypes = [memory, number, buffer, size, size]
    library.bridge_put.restype = ctypes.c_int
    library.bridge_wait.argtypes = [memory, size, ctypes.POINTER(number), number]
    library.bridge_wait.restype = ctypes.c_int
    return library
