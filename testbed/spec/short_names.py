"""Short names of the keys that differ between points: columns of a sweep's table."""

from __future__ import annotations

from collections.abc import Sequence

TAKEN = frozenset(  # names of other columns of a sweep's table
    {"name", "state", "repeat", "seed", "folder", "identity", "*"}
)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the short name of each key: the fewest last parts that are unique."""
    return {key: _short_name(key, keys) for key in keys}


def _short_name(key: str, keys: Sequence[str]) -> str:
    name = ""
    for part in reversed(key.split(".")):
        name = f"{part}.{name}" if name else part
        if _is_unambiguous(name, keys):
            break

    return name


def _is_unambiguous(name: str, keys: Sequence[str]) -> bool:
    """Return whether `name` ends exactly one of `keys` and is not another table column."""
    if name in TAKEN:
        return False

    matches = 0
    for key in keys:
        if key == name or key.endswith(f".{name}"):
            matches += 1

    return matches == 1
