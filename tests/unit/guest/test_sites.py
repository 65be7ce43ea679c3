"""The memory that guests share: its layout, and the distances between guests."""

import os
import re
import struct

import pytest

from testbed.core.errors import MachineError
from testbed.guest import sites
from testbed.guest.linux_source import PARTS
from testbed.guest.sites import GuestLink, least_distances_ns, shared_clock
from testbed.spec.options import MOST_GUESTS

PATCH = (PARTS / "linux-6.12" / "9-sites.patch").read_text()
SIZES = {"unsigned long long": 8, "unsigned int": 4}
TRIANGLE = [GuestLink((0, 1), (10, 11)), GuestLink((1, 2), (20, 20)), GuestLink((0, 2), (100, 25))]


def size_in_kernel(structure: str) -> int:
    """The bytes of a structure of sites.h, which has no padding."""
    text = re.search(rf"\+struct {structure} {{\n(.*?)\n\+}};", PATCH, re.DOTALL)
    assert text is not None
    size = 0
    for kind, _name, count in re.findall(
        r"\+\t(unsigned long long|unsigned int) (\w+)(?:\[(\d+)\])?;", text[1]
    ):
        size += SIZES[kind] * int(count or 1)
    return size


def test_the_layout_is_the_kernels() -> None:
    assert size_in_kernel("site") == sites.SITE.size == 128
    assert size_in_kernel("site_ring") == sites.RING.size == 192
    assert size_in_kernel("sites") == sites.HEADER.size
    magic = re.search(r"SITES_MAGIC\t(\w+)ULL", PATCH)
    most = re.search(r"SITES_MOST\t(\d+)", PATCH)
    never = re.search(r"SITES_NEVER\t(\w+)ULL", PATCH)
    assert magic is not None and int(magic[1], 16) == sites.MAGIC
    assert most is not None and int(most[1]) == MOST_GUESTS
    assert never is not None and int(never[1], 16) == sites.NEVER


def test_distances_go_the_shortest_way() -> None:
    assert least_distances_ns(3, TRIANGLE) == [[21, 10, 30], [11, 21, 20], [25, 20, 40]]


def test_guests_without_a_path_never_wait_for_each_other() -> None:
    distances = least_distances_ns(3, [GuestLink((0, 1), (5, 5))])
    assert distances[0][2] == distances[2][1] == sites.NEVER


def test_the_memory() -> None:
    with shared_clock(3, TRIANGLE) as clock:
        head = os.pread(clock.descriptor, sites.HEADER.size, 0)
        magic, guests, rings, size, lock = sites.HEADER.unpack(head)
        assert (magic, guests, rings, lock) == (sites.MAGIC, 3, 6, 0)
        assert size == os.fstat(clock.descriptor).st_size
        row = sites.DISTANCES_AT + 2 * MOST_GUESTS * 8
        assert struct.unpack("=3Q", os.pread(clock.descriptor, 24, row)) == (25, 20, 40)
        second = os.pread(clock.descriptor, sites.RING.size, sites.RINGS_AT + sites.RING.size)
        source, target, delay_ns, offset, ring_size, head_at, tail = sites.RING.unpack(second)
        assert (source, target, delay_ns) == (1, 0, 11)
        assert offset + ring_size <= size
        assert (head_at, tail) == (0, 0)
        assert clock.work(2) == sites.SiteWork(0, 0.0, 0, 0, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(clock.descriptor)


def test_too_many_guests() -> None:
    with pytest.raises(MachineError, match="at most 64 guests"), shared_clock(65, []):
        pass
