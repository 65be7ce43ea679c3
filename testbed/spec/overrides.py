"""Settings of ``--set KEY=VALUE``: parsing of arguments, and application to a file's contents."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.spec.yaml_reader import Items, Section, parse

WILDCARD = "*"
FindItem = Callable[[Items, str], int | None]


@dataclass(frozen=True)
class Override:
    """One ``--set KEY=VALUE``.

    Attributes:
        key: KEY as written, for errors.
        path: Parts of KEY after the target.
        value: VALUE, read as YAML.
        origin: Place of a setting in a file; None for an argument.
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
    """Parse ``--set`` arguments, grouped by target.

    Args:
        texts: Arguments such as ``topology.wan.iowa-ohio.delay=20 ms``.
        targets: Allowed first parts of a key; a single target may be left out of the key.

    Returns:
        The overrides of every target, in the order of `texts`.

    Raises:
        InputError: An argument is not KEY=VALUE, VALUE is not YAML, or KEY names no target.
    """
    overrides: dict[str, list[Override]] = {}
    for target in targets:
        overrides[target] = []

    for text in texts:
        target, override = _parse_override(text, targets)
        overrides[target].append(override)

    return overrides


def _parse_override(text: str, targets: Sequence[str]) -> tuple[str, Override]:
    """Return the target of one argument, and the override."""
    key, equals, value = text.partition("=")
    key = key.strip()
    path = key.split(".")
    if not equals or not all(path):
        raise InputError(
            f"{text!r} is not KEY=VALUE",
            place=Place("--set"),
            remedy=f"such as --set {targets[0]}.name=mine",
        )

    argument = f"--set {key}"
    if path[0] in targets and len(path) > 1:
        target = path.pop(0)
    elif len(targets) == 1:
        target = targets[0]
    else:
        prefixes = " or ".join(f"{name}." for name in targets)
        raise InputError(
            f"the key {key!r} does not start with {prefixes}",
            place=Place(argument),
            remedy=_with_target(path, targets, value),
        )

    override = Override(
        key=key,
        path=tuple(path),
        value=parse(value, argument),
    )
    return target, override


def _with_target(path: Sequence[str], targets: Sequence[str], value: str) -> str:
    """Return the remedy for a key without its target; empty if no target has such a key."""
    # The models of the targets need this module, and only mistakes need the models.
    from testbed.spec.full_keys import flag_of, full_keys  # noqa: PLC0415

    flag = flag_of(path)
    if flag is not None and "run" not in targets:
        return f"write {flag} {shlex.quote(value)}"

    arguments: list[str] = []
    for key in full_keys(path, targets):
        setting = f"{key}={value}"
        arguments.append(shlex.quote(setting))
    return f"write --set {' or --set '.join(arguments)}" if arguments else ""


def _no_item(items: Items, name: str) -> None:
    """Return None: items of lists have no names."""


def apply_overrides(
    root: Section, overrides: Iterable[Override], find_item: FindItem = _no_item
) -> None:
    """Set the overrides in `root`, in order.

    A step ``*`` of a path selects every key or item. Missing mappings are created. An item of a
    list is named by its index, or as `find_item` says.

    Args:
        root: Contents of a file; changed in place.
        overrides: The settings to apply.
        find_item: Function that returns the index of the named item of a list, or None.

    Raises:
        InputError: A path leads into something that is neither a mapping nor a list, or names no
            item.
    """
    for override in overrides:
        try:
            _set_below(root, override.path, override, find_item)
        except InputError as error:
            raise InputError(error.what, place=override.place, remedy=error.remedy) from error


def _set_below(
    node: object, path: tuple[str, ...], override: Override, find_item: FindItem
) -> None:
    """Set the override's value at `path`, which begins with a key or an item of `node`."""
    step = path[0]
    rest = path[1:]
    if isinstance(node, Section):
        keys = list(node) if step == WILDCARD else [step]
        for key in keys:
            _set_key(node, key, rest, override, find_item)
    elif isinstance(node, Items):
        for index in _matching_indices(node, step, find_item):
            _set_item(node, index, rest, override, find_item)
    else:
        raise InputError(f"cannot set {step!r}: its parent is the value {node!r}, not a mapping")


def _set_key(
    section: Section, key: str, rest: tuple[str, ...], override: Override, find_item: FindItem
) -> None:
    if not rest:
        value = copy.deepcopy(override.value)
        section.put(key, value, override.place)
        return

    if section.get(key) is None:
        section.put(key, Section(), override.place)
    _set_below(section[key], rest, override, find_item)


def _set_item(
    items: Items, index: int, rest: tuple[str, ...], override: Override, find_item: FindItem
) -> None:
    if not rest:
        items[index] = copy.deepcopy(override.value)
        items.places[index] = override.place
        return

    _set_below(items[index], rest, override, find_item)


def _matching_indices(items: Items, step: str, find_item: FindItem) -> Sequence[int]:
    """Return the indices of the items that a step of a path selects."""
    if step == WILDCARD:
        return range(len(items))
    if step.isdecimal() and int(step) < len(items):
        return [int(step)]

    index = find_item(items, step)
    if index is None:
        raise InputError(f"unknown item {step!r}")
    return [index]
