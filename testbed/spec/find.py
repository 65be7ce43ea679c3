"""The block ``find`` of an experiment: the least or largest value for which a condition holds.

    find:
      least: topology.wan.iowa-ohio.rate         # or largest: KEY
      such_that: compute_utilisation >= 90 %     # one condition or a list; all must hold
      between: [100 Mbit/s, 400 Gbit/s]
      precision: 5 %                             # ratio of neighbouring values, or a step: 1 ms
      for:                                       # a search for each combination of these values
        workload.method: [ddp, diloco]

    find:
      minimise: cost_per_token                   # or maximise: an expression, see
      define: {...}                              # `testbed.spec.objective`
      over: {topology.wan.iowa-ohio.rate: [...], workload.method: [...]}

The runs of the searches are points of a sweep over the values between both ends and the values of
``for``; a search runs only the points that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import Field, model_validator

from testbed.core.units import PERCENTAGE, UnitError
from testbed.spec.axis import Axes, Axis, Range, values_of
from testbed.spec.base import Count, Mistake, Strict, refuse
from testbed.spec.condition import Condition, Measure, measure
from testbed.spec.condition_parts import check_units, names_in
from testbed.spec.figures import run_figures
from testbed.spec.objective import Objective
from testbed.spec.short_names import short_names
from testbed.spec.yaml_reader import Loc

Goal: TypeAlias = Literal["least", "largest", "minimise", "maximise"]
SUCH_THAT = "such_that"  # the key of `for` that varies the condition
LEAST_PRECISION = 1  # percent; values are rounded to three significant digits
MANY_VALUES = 10_000


class _Ends(NamedTuple):
    """Both ends of a search, in base units."""

    low: float
    high: float
    quantity: str


class FindBlock(Strict):
    """A search for the least or the largest value of a key for which conditions hold.

    Or a search among the values of several keys for the least or largest value of an objective.
    """

    least: str | None = Field(None, description="key whose least value is sought")
    largest: str | None = Field(None, description="key whose largest value is sought")
    minimise: str | None = Field(None, description="expression whose least value is sought")
    maximise: str | None = Field(None, description="expression whose largest value is sought")
    over: Axes = Field({}, description="key: values, among which minimise and maximise choose")
    define: dict[str, Any] = Field(
        {}, description="name: number or expression, such as prices, for minimise and maximise"
    )
    at_once: Count = Field(
        4, description="number of runs that minimise and maximise choose at once"
    )
    such_that: str | list[str] = Field(
        [], description="conditions on the figures of a run; all must hold"
    )
    between: list[Any] = Field([], description="least and largest value to try")
    precision: Any = Field(
        "5 %", description="ratio of neighbouring values as a percentage, or their difference"
    )
    values: Axis | None = Field(
        None, description="values to try, ascending; instead of between and precision"
    )
    for_: Axes = Field(
        {}, alias="for", description="key: values; a search for each combination of the values"
    )
    probes: int = Field(
        1, ge=0, strict=True, description="further runs of a search, outside its answer"
    )
    repeats: Count = Field(
        1, description="runs of each value with different seeds; their medians decide"
    )
    runs: Count = Field(30, description="largest number of runs of a search, with repeats")

    @property
    def goal(self) -> Goal:
        """What is sought: a value of a key, or of an expression."""
        goals: tuple[Goal, ...] = ("least", "largest", "minimise", "maximise")
        given = [goal for goal in goals if getattr(self, goal) is not None]
        return given[0] if given else "least"

    @property
    def is_optimisation(self) -> bool:
        """Whether the best value of an expression over several keys is sought."""
        return self.goal in ("minimise", "maximise")

    @property
    def sought(self) -> dict[Loc, str]:
        """The keys among whose values the search chooses, by their place in the block."""
        if self.is_optimisation:
            return {("over", key): key for key in self.over}
        return {(self.goal,): self.key}

    @property
    def most_points(self) -> int:
        """Largest number of values, or combinations of values, that a search may try."""
        return self.runs // self.repeats

    @property
    def objective(self) -> Objective:
        """The expression whose best value is sought.

        Raises:
            UnitError: The expression or a definition is wrong.
        """
        keys = list(self.grid)
        text = self.minimise or self.maximise or ""
        return Objective(text, self.define, list(short_names(keys).values()))

    @property
    def key(self) -> str:
        """The key whose value is sought."""
        return self.least or self.largest or ""

    @property
    def candidates(self) -> list[Any]:
        """All values that the search may try, ascending."""
        if self.values is not None:
            return values_of(self.values)
        ends = self._ends()
        assert ends is not None
        return self._spaced(ends)

    @property
    def axes(self) -> Axes:
        """The values of each key that differs between the searches."""
        return {key: axis for key, axis in self.for_.items() if key != SUCH_THAT}

    @property
    def conditions_of_searches(self) -> list[list[str]]:
        """The conditions of each search with the same values of `axes`."""
        axis = self.for_.get(SUCH_THAT)
        if axis is None:
            return [_as_list(self.such_that)]
        return [_as_list(value) for value in values_of(axis)]

    @property
    def grid(self) -> Axes:
        """The values of all keys that differ between points."""
        if self.is_optimisation:
            return {**self.axes, **self.over}
        return {**self.axes, self.key: self.candidates}

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._key_problems()]
        problems += self._over_problems() if self.is_optimisation else self._value_problems()
        refuse(problems, type(self).__name__)
        refuse(list(self._condition_problems()), type(self).__name__)
        return self

    def _key_problems(self) -> Iterator[Mistake]:
        goals = (self.least, self.largest, self.minimise, self.maximise)
        if sum(goal is not None for goal in goals) != 1:
            what = "a search needs exactly one of least, largest, minimise and maximise"
            yield Mistake(("least",), what)
        for key in self.sought.values():
            if key in self.for_:
                yield Mistake(("for", key), f"{key} is the value that is sought")
        least = self.repeats if self.is_optimisation else 2 * self.repeats
        if self.repeats > 1 and self.runs < least:
            what = f"runs: {self.runs} is less than {least}, which {self.repeats} repeats need"
            yield Mistake(("runs",), what)
        if not self.is_optimisation:
            for name in ("over", "define"):
                if getattr(self, name):
                    yield Mistake((name,), f"{name} belongs to minimise and maximise")

    def _over_problems(self) -> Iterator[Mistake]:
        """Yield the problems of a search over several keys."""
        for name in ("between", "values"):
            if getattr(self, name):
                yield Mistake((name,), f"{name} belongs to least and largest", "use over")
        if not self.over:
            remedy = "such as over: {workload.method: [ddp, diloco]}"
            yield Mistake(("over",), f"{self.goal} needs keys with values to choose from", remedy)
            return
        try:
            samples: dict[str, Any] = {}
            for key, name in short_names(list(self.grid)).items():
                samples[name] = values_of(self.grid[key])[0]
            objective = self.objective
            objective.check(samples)
            if not objective.figures:
                what = f"{objective.text!r} depends on no figure of a run"
                yield Mistake((self.goal,), what, "such as tokens_per_s, step or wan_bytes")
        except UnitError as error:
            yield Mistake((self.goal,), error.what, error.remedy)

    def _value_problems(self) -> Iterator[Mistake]:
        if self.values is not None:
            if self.between:
                yield Mistake(("values",), "use either values, or between and precision")
            yield from self._order_problems(values_of(self.values))
            return
        if len(self.between) != 2:
            remedy = "such as between: [100 Mbit/s, 400 Gbit/s]"
            yield Mistake(("between",), "a search needs a least and a largest value to try", remedy)
            return

        problem = self._ends_problem()
        if problem is not None:
            yield problem

    def _order_problems(self, values: Sequence[Any]) -> Iterator[Mistake]:
        """Yield a problem if the values are not ascending quantities of one kind."""
        numbers = [measure(value) for value in values]
        if len(numbers) < 2:
            yield Mistake(("values",), "a search needs at least two values")
        for low, high in pairwise(numbers):
            is_number = isinstance(low, Measure) and isinstance(high, Measure)
            if not is_number or not _follows(low, high):
                remedy = "use ascending numbers, or quantities of one kind"
                yield Mistake(("values",), "the values are not in order", remedy)
                return

    def _ends(self) -> _Ends | None:
        """Return both ends in base units; None if they are not quantities of one kind."""
        low, high = (measure(value) for value in self.between)
        if not isinstance(low, Measure) or not isinstance(high, Measure):
            return None
        if low.number != 0 and low.quantity != high.quantity:
            return None
        return _Ends(float(low.number), float(high.number), high.quantity)

    def _ends_problem(self) -> Mistake | None:
        """Return the first problem of both ends and of the precision; None without one."""
        ends = self._ends()
        if ends is None:
            what = f"{self.between[0]!r} and {self.between[1]!r} are different kinds of quantities"
            return Mistake(("between",), what, "give both ends the same kind of unit")
        if ends.low >= ends.high:
            what = f"{self.between[0]} must be less than {self.between[1]}"
            return Mistake(("between",), what)
        return self._precision_problem(ends)

    def _precision_problem(self, ends: _Ends) -> Mistake | None:
        precision = measure(self.precision)
        if not isinstance(precision, Measure) or precision.number <= 0:
            return Mistake(("precision",), f"{self.precision!r} is not a precision", "such as 5 %")
        is_ratio = precision.quantity == PERCENTAGE.name
        if is_ratio:
            return self._ratio_problem(ends, float(precision.number))
        if precision.quantity != ends.quantity:
            what = f"the precision {self.precision} is no difference of such values"
            return Mistake(("precision",), what, "use a percentage, or the unit of the values")
        if (ends.high - ends.low) / float(precision.number) > MANY_VALUES:
            what = f"more than {MANY_VALUES} values from {self.between[0]} to {self.between[1]}"
            return Mistake(("precision",), what, "use a larger step, or a percentage")
        return None

    def _ratio_problem(self, ends: _Ends, percent: float) -> Mistake | None:
        if percent < LEAST_PRECISION:
            what = f"the precision {self.precision} is finer than {LEAST_PRECISION} %"
            return Mistake(("precision",), what, "use at least 1 %, or a step such as 1 ms")
        if ends.low <= 0:
            remedy = "start above zero, use a step such as 1 ms, or write values"
            what = f"no ratio of neighbouring values reaches {self.between[0]}"
            return Mistake(("between",), what, remedy)
        return None

    def _spaced(self, ends: _Ends) -> list[Any]:
        """Return the values from one end to the other by the precision."""
        low, high = self.between
        precision = measure(self.precision)
        if precision.quantity == PERCENTAGE.name:
            ratio = 1 + float(precision.number) / 100
            count = math.ceil(math.log(ends.high / ends.low) / math.log(ratio))
            source = {"from": low, "to": high, "points": 1 + max(1, count), "scale": "log"}
        else:
            source = {"from": low, "to": high, "step": self.precision}

        values = Range.model_validate(source).values()
        if measure(values[-1]) != measure(high):
            values.append(high)
        return _ascending(values)

    def _condition_problems(self) -> Iterator[Mistake]:
        for conditions in self.conditions_of_searches:
            if not conditions and not self.is_optimisation:
                remedy = "such as such_that: compute_utilisation >= 90 %"
                yield Mistake((SUCH_THAT,), "a search needs a condition", remedy)

            for text in conditions:
                try:
                    check_condition(text)
                except UnitError as error:
                    yield Mistake(self._loc_of_conditions(), error.what, error.remedy)

    def _loc_of_conditions(self) -> Loc:
        return ("for", SUCH_THAT) if SUCH_THAT in self.for_ else (SUCH_THAT,)


def check_condition(text: str) -> Condition:
    """Return the condition on the figures of a run.

    Args:
        text: The condition, such as ``compute_utilisation >= 90 %``.

    Raises:
        UnitError: The text is not a condition, names an unknown figure or none, or compares
            different kinds of quantities.
    """
    figures = run_figures()
    condition = Condition.parse(text, figures)
    if not names_in(condition):
        known = "compute_utilisation, time and wan_drops"
        raise UnitError(f"{text!r} names no figure of a run", f"figures are for example {known}")
    samples = {name: figure.measure(1.0) for name, figure in figures.items()}
    check_units(condition, samples)
    return condition


def _follows(low: Measure, high: Measure) -> bool:
    """Return whether `high` is more than `low`, and of the same kind; zero is of any kind."""
    same = low.quantity == high.quantity or low.number == 0
    return same and low.number < high.number


def _ascending(values: Sequence[Any]) -> list[Any]:
    """Return the values without those that rounding has made equal to their predecessor."""
    kept: list[Any] = []
    for value in values:
        if not kept or measure(kept[-1]).number < measure(value).number:
            kept.append(value)
    return kept


def _as_list(conditions: Any) -> list[str]:
    if isinstance(conditions, list):
        return [str(text) for text in conditions]
    return [str(conditions)]
