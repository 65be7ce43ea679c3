"""Names with slices in files of InfraGraph: ``host``, ``host[3]``, ``host[0:4]``, ``host[:]``."""

from __future__ import annotations

import re

_SLICED = re.compile(r"([^\[\]]+)(?:\[([^\[\]]*)\])?")
_INDEX = re.compile(r"\d+")
_SLICE = re.compile(r"(\d*):(\d*)(?::(\d*))?")


def name_of(text: str) -> str:
    """Return a name without its slice."""
    return text.partition("[")[0].strip()


def expand(text: str, count: int) -> range:
    """Return the indexes that a name with or without a slice stands for.

    Args:
        text: Such as ``nic[0:2]``.
        count: Number of items with this name.

    Raises:
        ValueError: The slice is wrong, or there are fewer items.
    """
    sliced = _SLICED.fullmatch(text.strip())
    inside = sliced[2] if sliced is not None else None
    if sliced is None:
        raise ValueError(f"{text!r} is not a name with a slice")
    if inside is None:
        return range(count)
    if _INDEX.fullmatch(inside):
        indexes = range(int(inside), int(inside) + 1)
    else:
        parts = _SLICE.fullmatch(inside)
        if parts is None or parts[3] == "0":
            raise ValueError(f"{text!r} is not a name with a slice such as [0:2]")
        stop = int(parts[2]) if parts[2] else count
        indexes = range(int(parts[1] or 0), stop, int(parts[3] or 1))
    if indexes and indexes[-1] >= count:
        raise ValueError(f"{text!r} is beyond the last of {count}, which is number {count - 1}")
    return indexes
