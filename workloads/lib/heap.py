"""Memory that is there before it is needed."""

from __future__ import annotations

import ctypes
import mmap

MADV_POPULATE_WRITE = 23  # Linux 5.14
_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def populate_heap(size_bytes: int) -> None:
    """Have `size_bytes` of the heap's memory made present at once, for later allocations.

    In the guest a page that appears when it is first touched costs 80 us of the machine's time, and
    in bulk a few. The allocator keeps what is freed, because the testbed starts it with trimming
    off.
    """
    address = _libc.malloc(size_bytes)
    if not address:
        return
    begin = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    _libc.madvise(begin, max(0, end - begin), MADV_POPULATE_WRITE)
    _libc.free(address)
