"""Known values for the buffers of collective operations, and counts of wrong elements.

Rank r's buffer holds at position i the value T[(i + `SHIFT` r) mod `PERIOD`] of one random table T
of small integers. A part from a wrong rank or at a wrong position therefore shows, and the sum over
ranks is periodic too: one period determines the whole sum. Sums of integers wrap as the dtype
wraps; sums of floats stay in the range in which every integer has a representation.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator

import torch

PERIOD = 65521  # a prime: differs from every period of buffers, parts or shards
SHIFT = 4099
LARGEST = 4
POISON = 101  # in buffers before results arrive; neither a value nor a sum of a few values
# All integers up to these limits are exact; wider types hold any sum.
EXACT = {torch.bfloat16: 2**8, torch.float16: 2**11}
EXACT_OTHERS = 2**24

_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


@functools.cache
def _table_twice(largest: int) -> torch.Tensor:
    """Return the table, and the table again: each rank's values are a part of it."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(0, largest + 1, (PERIOD,), generator=generator, dtype=torch.int32)
    return torch.cat([table, table])


def _of_rank(table_twice: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the period of a rank's values, a view."""
    begin = SHIFT * rank % PERIOD
    return table_twice[begin : begin + PERIOD]


class Values:
    """Values of a group of ranks in buffers of one dtype.

    bfloat16 sums are exact up to 256 ranks.
    """

    def __init__(self, ranks: int, dtype: torch.dtype) -> None:
        self._ranks = ranks
        self._dtype = dtype
        largest_exact_sum = EXACT.get(dtype, EXACT_OTHERS)
        largest = min(LARGEST, largest_exact_sum // ranks)
        self._largest = max(1, largest)
        self._values_twice = functools.cache(self._typed_table)
        self._sum = functools.cache(self._sum_period)

    def fill(self, tensor: torch.Tensor, rank: int, offset: int = 0) -> None:
        """Fill a tensor with the values of a rank.

        Args:
            tensor: flat.
            rank: the rank whose values are written.
            offset: position of the first value.
        """
        for piece, values in _pieces(tensor, self._of_rank(rank), offset):
            piece.copy_(values)

    def poison(self, tensor: torch.Tensor) -> None:
        """Overwrite a tensor before a result arrives in it."""
        tensor.fill_(POISON)

    def differing(self, tensor: torch.Tensor, rank: int, offset: int = 0) -> int:
        """Return the number of elements of a tensor that differ from the values of a rank.

        Args:
            tensor: flat.
            rank: the rank whose values are expected.
            offset: position of the first expected value.
        """
        return _count(tensor, self._of_rank(rank), offset)

    def differing_from_sum(self, tensor: torch.Tensor, offset: int = 0) -> int:
        """Return the number of elements of a tensor that differ from the sum of all ranks' values.

        Args:
            tensor: flat.
            offset: position of the first expected value.
        """
        return _count(tensor, self._sum(), offset)

    def _of_rank(self, rank: int) -> torch.Tensor:
        return _of_rank(self._values_twice(), rank)

    def _typed_table(self) -> torch.Tensor:
        return _table_twice(self._largest).to(self._dtype)

    def _sum_period(self) -> torch.Tensor:
        total = torch.zeros(PERIOD, dtype=torch.int32)
        for rank in range(self._ranks):
            total += _of_rank(_table_twice(self._largest), rank)

        return total.to(self._dtype)


class NoValues:
    """In the place of `Values` for folded buffers, where a byte lies at many places."""

    def fill(self, tensor: torch.Tensor, rank: int, offset: int = 0) -> None:
        """Leave a tensor as it is."""

    def poison(self, tensor: torch.Tensor) -> None:
        """Leave a tensor as it is."""

    def differing(self, tensor: torch.Tensor, rank: int, offset: int = 0) -> int:
        """Return 0: no values are expected."""
        return 0

    def differing_from_sum(self, tensor: torch.Tensor, offset: int = 0) -> int:
        """Return 0: no values are expected."""
        return 0


def _count(tensor: torch.Tensor, period: torch.Tensor, offset: int) -> int:
    """Return how many elements of a flat tensor differ from a repeated flat period.

    The first element is compared with the element of the period at `offset`.
    """
    wrong = 0
    for piece, expected in _pieces(tensor, period, offset):
        # memcmp takes a quarter of the time of counting
        if _libc.memcmp(piece.data_ptr(), expected.data_ptr(), piece.nbytes):
            differs = piece != expected
            wrong += int(torch.count_nonzero(differs))

    return wrong


def _pieces(
    tensor: torch.Tensor, period: torch.Tensor, offset: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `tensor` and its expected values in pieces within one period.

    Pieces need no new memory, which is expensive in a guest.
    """
    begin = 0

    while begin < len(tensor):
        position = (offset + begin) % PERIOD
        length = min(len(tensor) - begin, PERIOD - position)
        end = begin + length
        yield tensor[begin:end], period[position : position + length]
        begin = end
