"""The file of a topology before it is understood: what it extends, and the names of the entries of
`wan`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError
from testbed.spec import yaml_reader
from testbed.spec.base import suggest
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.wan import ARROW, Wan, is_per_direction
from testbed.spec.yaml_reader import Items, Section


def read_topology(path: Path, children: tuple[Path, ...] = ()) -> Section:
    """The file `path` laid over what it extends; `children` are the files that extend it.

    Raises:
        InputError: it cannot be read, or what it extends is not there, or is itself.
    """
    source = yaml_reader.load(path)
    if source.get("extends") is None:
        return source
    place = yaml_reader.place_of(source, ("extends",))
    seen = (*children, path.resolve())
    try:
        parent = TOPOLOGIES.find(str(source.pop("extends")), beside=path.parent)
    except InputError as error:
        raise InputError(error.what, place=place, remedy=error.remedy) from error
    if parent.resolve() in seen:
        raise InputError(f"{parent.name} extends itself", place=place)
    base = read_topology(parent, seen)
    for own in ("name", "description"):
        base.pop(own, None)
    _write_directions(base.get("wan"), source.get("wan"))
    return yaml_reader.merge(base, source, _same_item)


def _write_directions(base: Any, top: Any) -> None:
    """Write the settings of `base`'s links per direction where `top` does, so that one laid over
    keeps the other.
    """
    if not isinstance(base, Items) or not isinstance(top, Items):
        return
    for item in top:
        index = _same_item(base, item)
        if index is None or not isinstance(item.get("between"), Items):
            continue
        old, ends = base[index], [str(end) for end in item["between"]]
        for name in [
            name
            for name, value in item.items()
            if is_per_direction(value) and old.get(name) is not None
        ]:
            if not is_per_direction(old[name]):
                both = Section()
                for way in (ends, ends[::-1]):
                    both.put(ARROW.join(way), old[name], old.places[name])
                old.put(name, both, old.places[name])


def _same_item(items: Items, item: Any) -> int | None:
    """The index of the entry of `wan` that `item` refines: the same pair, or the same shorthand."""
    return next(
        (
            index
            for index, old in enumerate(items)
            if _identity(old) and _identity(old) == _identity(item)
        ),
        None,
    )


def _identity(item: Any) -> object:
    if not isinstance(item, Section):
        return None
    ends = item.get("between")
    if isinstance(ends, Items):
        return frozenset(map(str, ends))
    shapes = [shape for shape in ("mesh", "ring", "star") if shape in item]
    return shapes[0] if shapes else None


def item_name(item: Any) -> str | None:
    """The key of an entry of `wan`: ``iowa-ohio``, or the kind of a shorthand."""
    identity = _identity(item)
    return identity if isinstance(identity, str | None) else "-".join(map(str, item["between"]))


def find_item(source: Section, items: Items, step: str) -> int | None:
    """The index of the item that `step` names; a link of a shorthand gets an entry of its own."""
    names = [item_name(item) or str(index) for index, item in enumerate(items)]
    if step in names:
        return names.index(step)
    if step == "*" or items is not source.get("wan"):
        return None
    datacenters = source.get("datacenters") or {}
    known = {}
    for item in items:
        for ends in _shorthand_pairs(item, list(datacenters)):
            known["-".join(ends)] = ends
    if step not in known:
        raise InputError(
            f"there is no WAN link {step!r}", remedy=suggest(step, [*names, *known], "links")
        )
    between, entry, place = Items(), Section(), items.places[0]
    for end in known[step]:
        between.put(end, place)
    entry.put("between", between, place)
    items.put(entry, place)
    return len(items) - 1


def _shorthand_pairs(item: Any, datacenters: list[str]) -> list[tuple[str, str]]:
    if not isinstance(item, Section):
        return []
    shorthand = {key: item[key] for key in ("mesh", "ring", "star") if key in item}
    try:
        return Wan.model_validate(shorthand).pairs(datacenters) if shorthand else []
    except ValidationError:
        return []
