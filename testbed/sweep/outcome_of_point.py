"""What a point says to the searches of `testbed find`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class PointOutcome:
    """What a point says to a search.

    Attributes:
        row: Measured columns of the run (see `testbed.sweep.results`); empty after a failure.
        problem: Why the run has no figures; empty if it has.
        doubts: Why the run is not faithful.
        repeats: Measured columns of each run, where a point has several with different seeds;
            `row` then has their medians.
    """

    row: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    doubts: Sequence[str] = ()
    repeats: Sequence[Mapping[str, Any]] = ()


def median_outcome(outcomes: Sequence[PointOutcome]) -> PointOutcome:
    """Return the outcome of a point from those of its runs with different seeds.

    Figures are medians. A figure that most runs lack, such as the time to a loss that they do not
    reach, is missing. The point has no figures if a run has none.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    doubts: dict[str, None] = {}
    for outcome in outcomes:
        doubts.update(dict.fromkeys(outcome.doubts))
    for outcome in outcomes:
        if outcome.problem:
            return PointOutcome(problem=outcome.problem, doubts=tuple(doubts))
    rows = [outcome.row for outcome in outcomes]
    row: dict[str, Any] = {}
    for name in rows[0]:
        row[name] = _median([other.get(name) for other in rows])
    return PointOutcome(row, "", tuple(doubts), rows)


def _median(values: Sequence[Any]) -> Any:
    """Return the median of numbers, where None is larger than all; the first of other values."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) + values.count(None) < len(values) or not numbers:
        return values[0]
    missing = len(values) - len(numbers)
    if 2 * missing >= len(values):
        return None
    return median([*numbers, *[float("inf")] * missing])
