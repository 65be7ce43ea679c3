"""One search of `testbed find`: the values that it tries, and what their runs say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise, product
from typing import Any, Protocol

from testbed.core.units import UnitError
from testbed.spec.axis import values_of
from testbed.spec.condition_parts import names_in
from testbed.spec.experiment import Experiment, value_text
from testbed.spec.figures import NEVER, measures, run_figures
from testbed.spec.find import FindBlock, check_condition
from testbed.spec.short_names import short_names
from testbed.sweep.answers import Answer, State
from testbed.sweep.bisection import Bisection
from testbed.sweep.outcome_of_point import PointOutcome

STEADY = 0.01  # share of a figure by which it may turn back without a note


class Search:
    """A search for the least or largest value, among the candidates of an experiment."""

    def __init__(self, block: FindBlock, values: Mapping[str, Any], such_that: list[str]) -> None:
        """Begin a search.

        Args:
            block: The question.
            values: Values of the other keys that differ between searches.
            such_that: The conditions.
        """
        assert block.goal in ("least", "largest")
        self._block = block
        self._values = dict(values)
        self._such_that = such_that
        self._conditions = [check_condition(text) for text in such_that]
        self._candidates = block.candidates
        if block.goal == "largest":
            self._candidates.reverse()  # from values that should not hold to those that should
        self._bisection = Bisection(len(self._candidates), block.probes, block.most_points)
        self._outcomes: dict[int, PointOutcome] = {}
        self._problem = ""

    def ask(self) -> list[int]:
        """Return the next positions to run; empty while runs are missing, and at the end."""
        return [] if self._problem else self._bisection.ask()

    def values_at(self, position: int) -> dict[str, Any]:
        """Return the values of all keys of the point at a position."""
        return {**self._values, self._block.key: self._candidates[position]}

    def take(self, position: int, outcome: PointOutcome) -> None:
        """Take the outcome of the point at a position."""
        self._outcomes[position] = outcome
        problem = outcome.problem or self._missing_figure(outcome)
        if not problem:
            try:
                self._bisection.answer(position, self._holds(outcome))
                return
            except UnitError as error:
                problem = str(error)
        self._problem = f"the run at {self._text(position)} gives no answer: {problem}"

    def answer(self) -> Answer:
        """Return the answer as far as it is known."""
        names = short_names([*self._values, self._block.key])
        bisection = self._bisection
        values = {names[key]: value for key, value in self._values.items()}
        return Answer(
            goal=self._block.goal,
            key=self._block.key,
            name=names[self._block.key],
            such_that=self._such_that,
            values=values,
            state=self._state(),
            value=self._value(bisection.first),
            beyond=self._value(bisection.before),
            figures=self._figures(bisection.first),
            figures_beyond=self._figures(bisection.before),
            repeats=self._block.repeats,
            spread=self._spread(bisection.first),
            spread_beyond=self._spread(bisection.before),
            runs=sum(max(1, len(outcome.repeats)) for outcome in self._outcomes.values()),
            monotone=bisection.is_monotone,
            notes=self._notes(),
        )

    def _state(self) -> State:
        bisection = self._bisection
        ends_known = {0, len(self._candidates) - 1} <= bisection.known.keys()
        if self._problem:
            return "failed"
        if not ends_known or not bisection.is_narrow:
            return "open"
        if bisection.first is None:
            return "nowhere"
        if bisection.first == 0:
            return "everywhere"
        return "found"

    def _holds(self, outcome: PointOutcome) -> bool:
        return self._holds_of(outcome.row)

    def _holds_of(self, row: Mapping[str, Any]) -> bool:
        values = measures(run_figures(), row)
        return all(condition(values) for condition in self._conditions)

    def _within_noise(self) -> list[str]:
        """Return a note if runs at the ends of the bracket do not agree with their median."""
        texts: list[str] = []
        for position in (self._bisection.first, self._bisection.before):
            rows = () if position is None else self._outcomes[position].repeats
            try:
                holds = [self._holds_of(row) for row in rows]
            except UnitError:
                continue
            if len(set(holds)) > 1:
                texts.append(f"in {sum(holds)} of {len(holds)} runs at {self._text(position)}")
        if not texts:
            return []
        return [f"WITHIN THE NOISE: the condition holds {' and '.join(texts)}"]

    def _missing_figure(self, outcome: PointOutcome) -> str:
        """Return the problem of a run that lacks a figure of the conditions; empty without one."""
        figures = run_figures()
        for name in self.names:
            column = figures[name].column
            is_never = column in NEVER and column in outcome.row
            if outcome.row.get(column) is None and not is_never:
                return f"it has no {name}"
        return ""

    @property
    def names(self) -> list[str]:
        """Return the figures that the conditions name, each column once."""
        figures = run_figures()
        names: dict[str, str] = {}
        for condition in self._conditions:
            for name in names_in(condition):
                names.setdefault(figures[name].column, name)
        return list(names.values())

    def _value(self, position: int | None) -> Any:
        return None if position is None else self._candidates[position]

    def _text(self, position: int | None) -> str:
        return "" if position is None else value_text(self._candidates[position])

    def _figures(self, position: int | None) -> dict[str, float | None]:
        if position is None:
            return {}
        figures = run_figures()
        row = self._outcomes[position].row
        return {name: row.get(figures[name].column) for name in self.names}

    def _spread(self, position: int | None) -> dict[str, list[float]]:
        """Return the least and the largest value of each figure among the runs at a position."""
        spread: dict[str, list[float]] = {}
        rows = () if position is None else self._outcomes[position].repeats
        for name in self.names:
            column = run_figures()[name].column
            values = [float(row[column]) for row in rows if row.get(column) is not None]
            if values:
                spread[name] = [min(values), max(values)]
        return spread

    def _notes(self) -> list[str]:
        notes = [self._problem] if self._problem else []
        notes += self._within_noise()
        notes += self._turns_of_condition()
        for name in self.names:
            notes += self._turns_of_figure(name)
        for position in sorted(self._outcomes):
            doubts = self._outcomes[position].doubts
            if doubts:
                reasons = ", ".join(doubts)
                notes.append(f"the run at {self._text(position)} is NOT FAITHFUL: {reasons}")
        return notes

    def _turns_of_condition(self) -> list[str]:
        """Return a note if the condition does not hold beyond a value for which it holds."""
        for (position, holds), (other, other_holds) in pairwise(self._bisection.known.items()):
            if holds and not other_holds:
                return [
                    f"NOT MONOTONE: the condition holds at {self._text(position)}, but not at "
                    f"{self._text(other)}, so it may also turn at values that were not tried"
                ]
        return []

    def _turns_of_figure(self, name: str) -> list[str]:
        """Return a note if a figure rises and falls along the values."""
        figure = run_figures()[name]
        known: list[tuple[int, float]] = []
        for position in sorted(self._outcomes):
            value = self._outcomes[position].row.get(figure.column)
            if value is not None:
                known.append((position, float(value)))

        rises: tuple[int, int] | None = None
        falls: tuple[int, int] | None = None
        for (position, value), (other, other_value) in pairwise(known):
            least_change = STEADY * max(abs(value), abs(other_value))
            if other_value - value > least_change:
                rises = (position, other)
            elif value - other_value > least_change:
                falls = (position, other)
        if rises is None or falls is None:
            return []

        turn = falls if known[-1][1] > known[0][1] else rises
        values = dict(known)
        low, high = turn
        return [
            f"{name} is not monotone: {figure.text(values[low])} at {self._text(low)}, "
            f"{figure.text(values[high])} at {self._text(high)}"
        ]


class AnySearch(Protocol):
    """A search for a value of a key (`Search`), or for the best value of an objective."""

    def ask(self) -> list[int]:
        """Return the next positions to run; empty while runs are missing, and at the end."""

    def values_at(self, position: int) -> dict[str, Any]:
        """Return the values of all keys of the point at a position."""

    def take(self, position: int, outcome: PointOutcome) -> None:
        """Take the outcome of the point at a position."""

    def answer(self) -> Answer:
        """Return the answer as far as it is known."""

    @property
    def names(self) -> list[str]:
        """The figures that the answer names, each column once."""


def searches_of(experiment: Experiment) -> list[AnySearch]:
    """Return the searches of an experiment with `find`, in order: the last key varies fastest.

    Raises:
        MachineError: The search needs Optuna, which is not installed.
    """
    block = experiment.find
    assert block is not None
    make: Callable[[FindBlock, Mapping[str, Any], list[str]], AnySearch] = Search
    if block.is_optimisation:
        from testbed.sweep.optimum import Optimum  # noqa: PLC0415 (an extra)

        make = Optimum
    parts: list[list[dict[str, Any]]] = []
    for key, axis in block.axes.items():
        parts.append([{key: value} for value in values_of(axis)])

    searches: list[AnySearch] = []
    for combination in product(*parts):
        values: dict[str, Any] = {}
        for part in combination:
            values.update(part)
        for conditions in block.conditions_of_searches:
            searches.append(make(block, values, conditions))
    return searches
