"""A YAML reader that records the place of every key and item.

Stricter than YAML 1.1: a duplicate key is an error, keys are text, and only ``true`` and ``false``
are booleans, so that a datacenter may be called ``no``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from testbed.core.errors import InputError, Place

Loc = tuple[str | int, ...]  # the keys and indices from the root of a file to a value
Pair = tuple[yaml.Node, yaml.Node]  # a key and its value
FindMatch = Callable[["Items", Any], int | None]

MERGE_TAG = "tag:yaml.org,2002:merge"
TEXT_TAG = "tag:yaml.org,2002:str"
DUMP_COLUMNS = 110
MOST_BYTES = 16 * 2**20  # of a file
MOST_NODES = 1_000_000  # of a document: keys, values and items
MOST_REPEATED = 100_000  # nodes that aliases repeat
DEEPEST = 100  # levels of mappings and lists


class Section(dict[str, Any]):
    """A mapping; `place` is the place of its first key, `places` holds the place of each key."""

    def __init__(self, place: Place | None = None) -> None:
        super().__init__()
        self.place = place or Place()
        self.places: dict[str, Place] = {}

    def put(self, key: str, value: Any, place: Place) -> None:
        """Set `key` to `value`, and record the key's place."""
        self[key] = value
        self.places[key] = place


class Items(list[Any]):
    """A list; `places` holds the place of each item."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Place] = []

    def put(self, value: Any, place: Place) -> None:
        """Append an item, and record the item's place."""
        self.append(value)
        self.places.append(place)


class _SpecLoader(yaml.CSafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class declares it so)


class _Dumper(yaml.CSafeDumper):
    """A dumper that quotes text with another meaning in `_SpecLoader` or in YAML 1.1.

    Several lines of text are written as lines, such as the code of a script.
    """


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_block = "\n" in text and not text[0].isspace()
    node: yaml.ScalarNode = dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if is_block else None
    )
    return node


_Dumper.add_representer(str, _represent_text)

# Plain text that is a value of another type: tag, pattern, first characters.
_PLAIN_VALUES = [
    ("tag:yaml.org,2002:null", r"~|null|", ["~", "n", ""]),
    ("tag:yaml.org,2002:bool", r"true|false", ["t", "f"]),
    ("tag:yaml.org,2002:int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
        list("-+.0123456789"),
    ),
    (MERGE_TAG, r"<<", ["<"]),
]
for _tag, _pattern, _first_characters in _PLAIN_VALUES:
    _whole_text = re.compile(rf"(?:{_pattern})\Z")
    _SpecLoader.add_implicit_resolver(_tag, _whole_text, _first_characters)
    _Dumper.add_implicit_resolver(_tag, _whole_text, _first_characters)


class _Reader:
    """Converts the nodes of one document to values with places.

    A place has a line only if `file` is a path: an argument of the command line has no lines.
    """

    def __init__(self, loader: _SpecLoader, file: str | Path | None) -> None:
        self.loader = loader
        self.file = file
        self.open_nodes: set[int] = set()
        self.seen: set[int] = set()
        self.repeated = 0
        self.merged: dict[int, list[Pair]] = {}  # pairs of mappings with their merges, by node

    def place(self, node: yaml.Node, key: str | None = None) -> Place:
        line = None
        if isinstance(self.file, Path):
            line = node.start_mark.line + 1
        return Place(self.file, key, line)

    def value(self, node: yaml.Node) -> Any:
        self.check_open(node)
        self.count(node)
        self.open_nodes.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.section(node)
            if isinstance(node, yaml.SequenceNode):
                return self.items(node)
            return self.scalar(node)
        finally:
            self.open_nodes.discard(id(node))

    def check_open(self, node: yaml.Node) -> None:
        """Raise InputError if `node` contains itself, or lies too deep."""
        if id(node) in self.open_nodes:
            raise InputError("an alias refers to its own parent", place=self.place(node))
        if len(self.open_nodes) > DEEPEST:
            raise InputError(f"nested more than {DEEPEST} levels deep", place=self.place(node))

    def count(self, node: yaml.Node) -> None:
        """Raise InputError if the document has too many nodes, or aliases repeat too many."""
        if id(node) in self.seen:
            self.repeated += 1
        self.seen.add(id(node))
        if len(self.seen) > MOST_NODES:
            raise InputError(f"more than {MOST_NODES} values", place=self.place(node))
        if self.repeated > MOST_REPEATED:
            what = f"aliases repeat more than {MOST_REPEATED} values"
            raise InputError(what, place=self.place(node), remedy="write fewer aliases of aliases")

    def scalar(self, node: yaml.Node) -> Any:
        """Return the value of a scalar.

        Raises:
            InputError: The text is no value of its tag, such as ``!!bool foo``.
        """
        try:
            return self.loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            what = f"{node.value!r} is not a value of the tag !!{tag}"
            raise InputError(what, place=self.place(node), remedy="remove the tag") from error

    def items(self, node: yaml.SequenceNode) -> Items:
        items = Items()
        for child in node.value:
            items.put(self.value(child), self.place(child))
        return items

    def section(self, node: yaml.MappingNode) -> Section:
        self.check_keys(node)
        section = Section(self.place(node))
        for key, value in self.pairs(node):
            section.put(key.value, self.value(value), self.place(key))
        return section

    def pairs(self, node: yaml.MappingNode) -> list[Pair]:
        """Return the keys and values of a mapping, after those that it merges (``<<``).

        Of several mappings to merge, the first one that has a key wins.
        """
        if id(node) in self.merged:
            return self.merged[id(node)]

        merged: dict[str, Pair] = {}
        own: dict[str, Pair] = {}
        for key, value in node.value:
            if key.tag != MERGE_TAG:
                own[key.value] = (key, value)
                continue

            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in reversed(sources):
                merged.update(self.merge_source(source))

        merged.update(own)
        self.merged[id(node)] = list(merged.values())
        return self.merged[id(node)]

    def merge_source(self, source: yaml.Node) -> dict[str, Pair]:
        """Return the keys and values of a mapping that another one merges, by key."""
        if not isinstance(source, yaml.MappingNode):
            what = "expected a mapping or a list of mappings after <<"
            raise InputError(what, place=self.place(source))

        self.check_open(source)
        self.open_nodes.add(id(source))
        try:
            self.check_keys(source)
            return {pair[0].value: pair for pair in self.pairs(source)}
        finally:
            self.open_nodes.discard(id(source))

    def check_keys(self, node: yaml.MappingNode) -> None:
        """Raise InputError if a key of `node` is not text or is a duplicate."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == MERGE_TAG:
                continue
            if key.tag != TEXT_TAG:
                raise InputError(
                    f"the key {key.value!r} is not text",
                    place=self.place(key),
                    remedy="put the key in quotes",
                )

            if key.value in lines:
                first = lines[key.value]
                raise InputError(
                    f"duplicate key {key.value!r}, first on line {first}",
                    place=self.place(key, key.value),
                    remedy="remove one of the two",
                )

            lines[key.value] = key.start_mark.line + 1


def parse(text: str, file: str | Path | None) -> Any:
    """Return the value of a YAML document.

    Args:
        text: The document.
        file: The file that places name, with a line for a path; None: with a dotted key.

    Returns:
        A `Section`, `Items` or a scalar; None for an empty document.

    Raises:
        InputError: The text is not YAML, or has a duplicate key.
    """
    _check_depth(text, file)
    try:
        loader = _SpecLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        return _Reader(loader, file).value(node)
    except yaml.MarkedYAMLError as error:
        line = None
        if error.problem_mark and isinstance(file, Path):
            line = error.problem_mark.line + 1

        parts = [part for part in (error.context, error.problem) if part]
        what = ", ".join(parts)
        raise InputError(f"not valid YAML: {what}", place=Place(file, None, line)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"not valid YAML: {error}", place=Place(file)) from error


def _check_depth(text: str, file: str | Path | None) -> None:
    """Raise InputError if `text` is nested so deep that reading it might exhaust the stack."""
    if _possible_depth(text) <= DEEPEST:
        return

    depth = 0
    try:
        for event in yaml.parse(text, Loader=_SpecLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                line = None
                if event.start_mark is not None and isinstance(file, Path):
                    line = event.start_mark.line + 1
                what = f"nested more than {DEEPEST} levels deep"
                raise InputError(what, place=Place(file, None, line))
    except yaml.YAMLError:
        return  # reading the text again reports the error


def _possible_depth(text: str) -> int:
    """Return an upper bound of how deep mappings and lists of `text` are nested."""
    in_brackets = 0
    deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        in_brackets += 1 if bracket[0] in "[{" else -1
        in_brackets = max(in_brackets, 0)
        deepest = max(deepest, in_brackets)

    indented = max((len(match[0]) for match in re.finditer(r"(?m)^[ ?:-]+", text)), default=0)
    return deepest + indented


def dump(value: Any) -> str:
    """Return a value of mappings, lists and scalars as YAML that `parse` reads back."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=DUMP_COLUMNS,
    )


def text_of(mapping: Mapping[str, Any], name: str) -> str:
    """Return a mapping of Python values as YAML.

    Args:
        mapping: Keys and values as in a file.
        name: Name of the mapping, for errors.

    Raises:
        InputError: YAML cannot represent a value.
    """
    try:
        return dump(plain(dict(mapping)))
    except yaml.YAMLError as error:
        reason = " ".join(map(str, error.args))
        raise InputError(reason, place=Place(name)) from error


def load(path: Path) -> Section:
    """Read the mapping in the YAML file `path`.

    Raises:
        InputError: The file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            what = f"the file is larger than {MOST_BYTES // 2**20} MiB"
            raise InputError(what, place=Place(path))
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", place=Place(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("not a UTF-8 text file", place=Place(path)) from error

    value = parse(text, path)
    if not isinstance(value, Section):
        raise InputError("expected a mapping of keys to values", place=Place(path, None, 1))
    return value


def _no_name(item: Any) -> None:
    """Return None: items of lists have no names."""


def place_of(root: Section, loc: Loc, name_item: Callable[[Any], str | None] = _no_name) -> Place:
    """Return the place of a value, or of the innermost existing part of its location.

    Args:
        root: Contents of the file.
        loc: The keys and indices that lead to the value.
        name_item: Function that returns an item's name in the dotted key; None: the index.

    Returns:
        The place, with the dotted key unless only the file is known.
    """
    place = root.place
    names: list[str] = []
    node: Any = root
    for step in loc:
        name = None
        if _holds(node, step):
            place = node.places[step]
            child = node[step]
            if isinstance(node, Items):
                name = name_item(child)

            node = child
        else:
            node = None

        names.append(name or str(step))

    if place.line is None and place.file is not None:
        return place
    return replace(place, key=".".join(names) or None)


def _holds(node: Any, step: str | int) -> bool:
    if isinstance(node, Section):
        return step in node
    if isinstance(node, Items) and isinstance(step, int):
        return step < len(node)
    return False


def merge(base: Section, top: Section, find_match: FindMatch) -> Section:
    """Return `top` merged over `base`, key by key; a null in `top` removes the key.

    In a list of mappings, an item of `top` is merged over its match in `base`, or appended.

    Args:
        base: The lower section; not changed.
        top: The upper section.
        find_match: Function that returns the index in `base` of the item that `top`'s refines.
    """
    result = copy.deepcopy(base)
    result.place = top.place
    for key, value in top.items():
        if value is None and key in result:
            del result[key]
        else:
            merged = _merged_value(result.get(key), value, find_match)
            result.put(key, merged, top.places[key])

    return result


def _merged_value(old: Any, new: Any, find_match: FindMatch) -> Any:
    if isinstance(old, Section) and isinstance(new, Section):
        return merge(old, new, find_match)
    if isinstance(old, Items) and isinstance(new, Items):
        has_mappings = any(isinstance(item, Section) for item in new)
        if has_mappings:
            return _merge_items(old, new, find_match)

    return new


def _merge_items(base: Items, top: Items, find_match: FindMatch) -> Items:
    refined: set[int] = set()
    result = copy.deepcopy(base)
    for item, place in zip(top, top.places, strict=True):
        index = find_match(base, item)
        if index is None or index in refined:
            result.put(item, place)
        else:
            refined.add(index)
            result[index] = merge(result[index], item, find_match)

    return result


def plain(value: Any) -> Any:
    """Return `value` without places: dictionaries, lists and scalars."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
