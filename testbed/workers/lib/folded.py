"""Tensors whose memory is a few MiB, mapped again and again at consecutive addresses.

What is sent from such a tensor is as long as from any other, but its contents mean nothing: a byte
lies at many places of the tensor, and of all other folded tensors of the process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from functools import cache

import torch

FOLD_BYTES = 4 * 2**20
PROT_NONE, MAP_FIXED = 0, 0x10  # linux/mman.h
MADV_POPULATE_WRITE = 23  # Linux 5.14
MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def folded_tensor(items: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a flat tensor; all such tensors of this process share `FOLD_BYTES` of memory.

    Args:
        items: number of elements, at least 1.
        dtype: data type.

    Raises:
        OSError: the memory cannot be mapped.
    """
    size = items * dtype.itemsize
    address = _map_folds(size)
    array = (ctypes.c_char * size).from_address(address)
    weakref.finalize(array, _libc.munmap, address, size)  # with the tensor's storage
    return torch.frombuffer(array, dtype=dtype)


@cache
def _fold() -> int:
    """Return the descriptor of the memory that all folded tensors of this process share."""
    descriptor = os.memfd_create("folded")
    os.ftruncate(descriptor, FOLD_BYTES)
    return descriptor


def _map_folds(size: int) -> int:
    """Map the fold as often as `size` bytes need, and return the first address."""
    address = _mmap(None, size, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    for begin in range(0, size, FOLD_BYTES):
        length = min(FOLD_BYTES, size - begin)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        _mmap(address + begin, length, access, mmap.MAP_SHARED | MAP_FIXED, _fold())

    # All pages at once: one at a time, each would cost a trap in the guest.
    _libc.madvise(address, size, MADV_POPULATE_WRITE)
    return address


def _mmap(address: int | None, size: int, access: int, flags: int, descriptor: int) -> int:
    mapped: int = _libc.mmap(address, size, access, flags, descriptor, 0)
    if mapped == MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot map {size} bytes: {os.strerror(number)}")
    return mapped
