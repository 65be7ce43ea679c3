"""Topology files before validation: inheritance by `extends`, and names of entries of `wan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.core.suggestions import suggest
from testbed.spec import yaml_reader
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.wan import ARROW, SHORTHANDS, Wan, is_per_direction
from testbed.spec.yaml_reader import Items, Section

DEEPEST = 50  # files that extend one another


def read_topology(path: Path, children: tuple[Path, ...] = ()) -> Section:
    """Read a topology file, merged over the file that it extends.

    Args:
        path: The file.
        children: The files that extend the file, directly or not.

    Raises:
        InputError: The file cannot be read, or the extended file does not exist, or extends the
            file in turn.
    """
    return extend(yaml_reader.load(path), path.parent, (*children, path.resolve()))


def extend(source: Section, folder: Path, descendants: tuple[Path, ...] = ()) -> Section:
    """Return the contents of a topology file, merged over the file that the contents extend.

    Args:
        source: Contents of the file; changed in place.
        folder: Folder for relative paths.
        descendants: The file itself, and the files that extend the file, directly or not.

    Raises:
        InputError: The extended file cannot be read, does not exist, or is one of `descendants`.
    """
    if source.get("extends") is None:
        return source

    place = yaml_reader.place_of(source, ("extends",))
    extended = str(source.pop("extends"))
    try:
        parent = TOPOLOGIES.find(extended, relative_to=folder)
    except InputError as error:
        raise InputError(error.what, place=place, remedy=error.remedy) from error

    if len(descendants) > DEEPEST:
        raise InputError(f"extends more than {DEEPEST} files, one by one", place=place)

    if parent.resolve() in descendants:
        raise InputError(f"{parent.name} extends itself", place=place)

    base = read_topology(parent, descendants)
    for key in ("name", "description"):
        base.pop(key, None)
    _split_directions(base.get("wan"), source.get("wan"))
    return yaml_reader.merge(base, source, _same_entry)


def _split_directions(base: Any, top: Any) -> None:
    """Write settings of links in `base` per direction if `top` does so.

    A setting of one direction in `top` then keeps the value of the other direction.
    """
    if not isinstance(base, Items) or not isinstance(top, Items):
        return

    for entry in top:
        index = _same_entry(base, entry)
        if index is None or not isinstance(entry.get("between"), Items):
            continue

        ends = [str(name) for name in entry["between"]]
        directions = (ARROW.join(ends), ARROW.join(reversed(ends)))
        for name, value in entry.items():
            if is_per_direction(value):
                _split_setting(base[index], name, directions)


def _split_setting(entry: Section, name: str, directions: tuple[str, str]) -> None:
    """Write a link's setting per direction, unless missing or already per direction."""
    value = entry.get(name)
    if value is None or is_per_direction(value):
        return

    place = entry.places[name]
    per_direction = Section()
    for direction in directions:
        per_direction.put(direction, value, place)
    entry.put(name, per_direction, place)


def _same_entry(entries: Items, entry: Any) -> int | None:
    """Return the index of the entry that `entry` refines: same pair or same shorthand."""
    identity = _identity(entry)
    if not identity:
        return None

    for index, other in enumerate(entries):
        if _identity(other) == identity:
            return index

    return None


def _identity(entry: Any) -> frozenset[str] | str | None:
    """Return the two ends of a link, or the kind of a shorthand."""
    if not isinstance(entry, Section):
        return None

    ends = entry.get("between")
    if isinstance(ends, Items):
        return frozenset(map(str, ends))

    for shorthand in SHORTHANDS:
        if shorthand in entry:
            return shorthand

    return None


def item_name(item: Any) -> str | None:
    """Return the key of an entry of `wan`: ``iowa-ohio``, or the kind of a shorthand."""
    identity = _identity(item)
    if isinstance(identity, frozenset):
        return "-".join(map(str, item["between"]))
    return identity


def _swapped_name(item: Any) -> str | None:
    """Return the key of a link with its two ends swapped; None for a shorthand."""
    if not isinstance(_identity(item), frozenset):
        return None
    return "-".join(map(str, reversed(item["between"])))


def find_item(source: Section, items: Items, step: str) -> int | None:
    """Return the index of the item that a key names; a link of a shorthand becomes an entry.

    Args:
        source: The whole file; changed in place for a link of a shorthand.
        items: The list, anywhere in the file.
        step: Name of the item.

    Returns:
        Index of the item; None for a list other than `wan`. The ends of a link may be swapped.

    Raises:
        InputError: The link does not exist.
    """
    names: list[str] = []
    for index, item in enumerate(items):
        names.append(item_name(item) or str(index))
    if step in names:
        return names.index(step)
    if items is not source.get("wan"):
        return None

    for index, item in enumerate(items):
        if step == _swapped_name(item):
            return index

    datacenters = list(source.get("datacenters") or {})
    shorthand_links: dict[str, tuple[str, str]] = {}
    swapped_links: dict[str, tuple[str, str]] = {}
    for item in items:
        for start, end in _shorthand_pairs(item, datacenters):
            shorthand_links[f"{start}-{end}"] = (start, end)

            swapped_links[f"{end}-{start}"] = (start, end)

    ends = shorthand_links.get(step) or swapped_links.get(step)
    if ends is None:
        suggestion = suggest(step, [*names, *shorthand_links], "links")
        raise InputError(f"unknown WAN link {step!r}", remedy=suggestion)

    _append_link(items, ends)
    return len(items) - 1


def _append_link(entries: Items, ends: tuple[str, str]) -> None:
    place: Place = entries.places[0]
    between = Items()
    for end in ends:
        between.put(end, place)

    entry = Section()
    entry.put("between", between, place)
    entries.put(entry, place)


def _shorthand_pairs(item: Any, datacenters: list[str]) -> list[tuple[str, str]]:
    """Return the ends of all links of an entry; empty unless a valid shorthand."""
    if not isinstance(item, Section):
        return []

    shorthand = {key: item[key] for key in SHORTHANDS if key in item}
    if not shorthand:
        return []

    try:
        return Wan.model_validate(shorthand).pairs(datacenters)
    except ValidationError:
        return []
