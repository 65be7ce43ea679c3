"""YAML that remembers where every key and item was written, and ``--set`` on top of it.

Stricter than YAML 1.1: a duplicate key is an error, keys are text, and only ``true`` and ``false``
are booleans, so that a datacenter may be called ``no``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from testbed.core.errors import InputError, Place

Loc = tuple[str | int, ...]


class Section(dict[str, Any]):
    """A mapping; `places` says where each key was written."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def put(self, key: str, value: Any, place: Place) -> None:
        """Set `key`, written at `place`."""
        self[key] = value
        self.places[key] = place


class Items(list[Any]):
    """A list; `places` says where each item was written."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Place] = []

    def put(self, value: Any, place: Place) -> None:
        """Append an item, written at `place`."""
        self.append(value)
        self.places.append(place)


class _Loader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class declares it so)


_PLAIN = {
    "tag:yaml.org,2002:null": (r"~|null|", ["~", "n", ""]),
    "tag:yaml.org,2002:bool": (r"true|false", ["t", "f"]),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    "tag:yaml.org,2002:merge": (r"<<", ["<"]),
}


class _Dumper(yaml.CSafeDumper):
    """Quotes text that either `_Loader` or YAML 1.1 would take for something else."""


for _tag, (_pattern, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Reader:
    """Turns the nodes of one document into values with places; a file has lines, an argument has
    none.
    """

    def __init__(self, loader: _Loader, file: str | Path) -> None:
        self.loader, self.file, self.open = loader, file, set[int]()

    def place(self, node: yaml.Node, key: str | None = None) -> Place:
        return Place(
            self.file, key, node.start_mark.line + 1 if isinstance(self.file, Path) else None
        )

    def value(self, node: yaml.Node) -> Any:
        if id(node) in self.open:
            raise InputError("an alias refers to what holds it", place=self.place(node))
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.section(node)
            if isinstance(node, yaml.SequenceNode):
                items = Items()
                for child in node.value:
                    items.put(self.value(child), self.place(child))
                return items
            return self.loader.construct_object(node)
        finally:
            self.open.discard(id(node))

    def section(self, node: yaml.MappingNode) -> Section:
        own: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise InputError(
                    f"the key {key.value!r} is not text", place=self.place(key), remedy="quote it"
                )
            if key.value in own:
                raise InputError(
                    f"the key {key.value!r} is written twice; the first is on line {own[key.value]}",
                    place=self.place(key, key.value),
                    remedy="remove one of them",
                )
            own[key.value] = key.start_mark.line + 1
        self.loader.flatten_mapping(node)
        section = Section()
        for key, value in node.value:
            section.put(key.value, self.value(value), self.place(key))
        return section


def parse(text: str, file: str | Path) -> Any:
    """The value of a YAML document, with places that name `file` (and a line, if it is a path).

    Raises:
        InputError: it is not YAML, or has a duplicate key.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _Reader(loader, file).value(node)
    except yaml.MarkedYAMLError as error:
        line = (
            error.problem_mark.line + 1 if error.problem_mark and isinstance(file, Path) else None
        )
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"this is not YAML: {what}", place=Place(file, None, line)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"this is not YAML: {error}", place=Place(file)) from error


def dump(value: Any) -> str:
    """A value of mappings, lists and scalars as YAML that `parse` reads back."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=110,
    )


def load(path: Path) -> Section:
    """The mapping that the YAML file `path` holds.

    Raises:
        InputError: it cannot be read, is not YAML, or is no mapping.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", place=Place(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("it is not a text file in UTF-8", place=Place(path)) from error
    if not isinstance(value, Section):
        raise InputError("it holds no mapping of keys to values", place=Place(path, None, 1))
    return value


def place_of(
    root: Section, loc: Loc, name_item: Callable[[Any], str | None] = lambda item: None
) -> Place:
    """Where the value at `loc` was written, or the innermost part of it that was.

    `name_item` gives the name of a list's item in the dotted key; without one it is the index.
    """
    place, key = Place(), list[str]()
    node: Any = root
    step: Any
    for step in loc:
        name = None
        if (isinstance(node, Section) and step in node) or (
            isinstance(node, Items) and isinstance(step, int) and step < len(node)
        ):
            place, parent, node = node.places[step], node, node[step]
            name = name_item(node) if isinstance(parent, Items) else None
        else:
            node = None
        key.append(name or str(step))
    if place.line is None and place.file is not None:
        return place
    return replace(place, key=".".join(key) or None)


@dataclass(frozen=True)
class Override:
    """One ``--set KEY=VALUE``: `path` is KEY's parts within its target, `value` is VALUE read as
    YAML.

    One that comes from a file has its place there as `origin`.
    """

    key: str
    path: tuple[str, ...]
    value: Any
    origin: Place | None = None

    @property
    def place(self) -> Place:
        """The place that errors name."""
        return self.origin or Place(f"--set {self.key}")


def parse_overrides(texts: Iterable[str], targets: Sequence[str]) -> dict[str, list[Override]]:
    """``--set`` arguments by target, in order: ``topology.wan.iowa-ohio.delay=20 ms`` belongs to
    ``topology``.

    With a single target, its name in front may be left out.

    Raises:
        InputError: an argument is not KEY=VALUE, VALUE is not YAML, or KEY names no target.
    """
    result: dict[str, list[Override]] = {target: [] for target in targets}
    for text in texts:
        key, equals, value = text.partition("=")
        key, place = key.strip(), Place(f"--set {key.strip()}")
        path = key.split(".")
        if not equals or not all(path):
            raise InputError(
                f"{text!r} is not KEY=VALUE",
                place=Place("--set"),
                remedy=f"as in --set {targets[0]}.name=mine",
            )
        target = (
            path.pop(0)
            if path[0] in targets and len(path) > 1
            else targets[0]
            if len(targets) == 1
            else None
        )
        if target is None:
            names = " or ".join(f"{target}." for target in targets)
            raise InputError(f"the key {key!r} does not begin with {names}", place=place)
        result[target].append(Override(key, tuple(path), parse(value, f"--set {key}")))
    return result


def apply(
    root: Section,
    overrides: Iterable[Override],
    find_item: Callable[[Items, str], int | None] = lambda items, step: None,
) -> None:
    """Set the overrides in `root`, in order; ``*`` stands for every key or item, missing mappings
    are made.

    An item of a list is named by its index, or as `find_item` says: it gives the index of a name,
    or None.

    Raises:
        InputError: a path leads into something that is neither a mapping nor a list, or names no
            item.
    """
    for override in overrides:
        try:
            _set(root, override.path, override, find_item)
        except InputError as error:
            raise InputError(error.what, place=override.place, remedy=error.remedy) from error


def _set(
    node: Any,
    path: tuple[str, ...],
    override: Override,
    find_item: Callable[[Items, str], int | None],
) -> None:
    step, rest = path[0], path[1:]
    steps: Iterable[Any]
    if isinstance(node, Items):
        found = int(step) if step.isdecimal() and int(step) < len(node) else find_item(node, step)
        if step != "*" and found is None:
            raise InputError(f"there is no item {step!r}")
        steps = range(len(node)) if step == "*" else [found]
    elif isinstance(node, Section):
        steps = list(node) if step == "*" else [step]
        for key in steps:
            if rest and node.get(key) is None:
                node.put(key, Section(), override.place)
    else:
        raise InputError(f"{step!r} cannot be set: what holds it is the value {node!r}")
    for key in steps:
        if rest:
            _set(node[key], rest, override, find_item)
        else:
            node[key] = copy.deepcopy(override.value)
            node.places[key] = override.place


def merge(base: Section, top: Section, match: Callable[[Items, Any], int | None]) -> Section:
    """`top` laid over `base` key by key; a null in `top` removes the key.

    In lists of mappings, an item of `top` is laid over the item of `base` that `match` finds, or
    appended.
    """
    result = copy.deepcopy(base)
    for key, value in top.items():
        old, place = result.get(key), top.places[key]
        if value is None and key in result:
            del result[key]
        elif isinstance(old, Section) and isinstance(value, Section):
            result.put(key, merge(old, value, match), place)
        elif (
            isinstance(old, Items)
            and isinstance(value, Items)
            and any(isinstance(item, Section) for item in value)
        ):
            result.put(key, _merge_items(old, value, match), place)
        else:
            result.put(key, value, place)
    return result


def _merge_items(base: Items, top: Items, match: Callable[[Items, Any], int | None]) -> Items:
    taken: set[int] = set()
    result = copy.deepcopy(base)
    for item, place in zip(top, top.places, strict=True):
        index = match(base, item)
        if index is None or index in taken:
            result.put(item, place)
        else:
            taken.add(index)
            result[index] = merge(result[index], item, match)
    return result


def plain(value: Any) -> Any:
    """`value` without places: dictionaries, lists and scalars."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value
