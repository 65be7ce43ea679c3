"""A question in words, such as ``least wan.iowa-ohio.rate``, as an experiment with `find`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.spec.experiment import TARGETS
from testbed.spec.find import SUCH_THAT
from testbed.spec.full_keys import full_keys

GOALS = ("least", "largest")
POSITIONS = 30  # largest number of values that a search tries


def is_question(text: str) -> bool:
    """Return whether a text begins with least or largest, and so is no name of an experiment."""
    words = text.split()
    return bool(words) and words[0] in GOALS


def question(
    text: str,
    *,
    topology: str,
    workload: str,
    such_that: Sequence[str],
    between: Sequence[Any],
    precision: Any = None,
    for_each: Mapping[str, Sequence[Any]] | None = None,
    repeats: int | None = None,
) -> dict[str, Any]:
    """Return the contents of an experiment file that asks a question.

    Args:
        text: Goal and key, such as ``least wan.iowa-ohio.rate``.
        topology: Preset or file.
        workload: Preset or file.
        such_that: Conditions on the figures of a run.
        between: Least and largest value to try.
        precision: Ratio or difference of neighbouring values; None: 5 %.
        for_each: Values of further keys; a search for each combination.
        repeats: Runs of each value, with different seeds; None: 1.

    Raises:
        InputError: The text is not a goal and a key.
    """
    words = text.split()
    if len(words) != 2 or words[0] not in GOALS:
        remedy = "write least or largest, and a key, such as 'least wan.iowa-ohio.rate'"
        raise InputError(f"{text!r} is not a question", remedy=remedy)

    goal, key = words
    find: dict[str, Any] = {goal: full_key(key), SUCH_THAT: list(such_that)}
    find["between"] = list(between)
    if precision is not None:
        find["precision"] = precision
    if repeats is not None:
        find["repeats"] = repeats
        find["runs"] = repeats * POSITIONS
    if for_each:
        find["for"] = {full_key(name): list(values) for name, values in for_each.items()}

    last_part = key.rpartition(".")[2]
    name = re.sub(r"[^a-z0-9]+", "-", f"{goal}-{last_part}".lower()).strip("-")
    return {"name": name, "topology": topology, "workload": workload, "find": find}


def full_key(key: str) -> str:
    """Return a key with its target: ``topology.wan.iowa-ohio.rate`` for ``wan.iowa-ohio.rate``.

    Raises:
        InputError: The key may mean several things.
    """
    path = key.split(".")
    if path[0] in TARGETS or key == SUCH_THAT:
        return key
    meant = [full for full in full_keys(path, TARGETS) if full.endswith(f".{key}")]
    if len(meant) > 1:
        what = f"{key!r} may mean {' or '.join(meant)}"
        raise InputError(what, place=Place(key), remedy="write the whole key")
    return meant[0] if meant else key
