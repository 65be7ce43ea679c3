"""The values of a swept key: a list or a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from testbed.core.units import (
    PERCENTAGE,
    RATE,
    TIME,
    Quantity,
    UnitError,
    format_probability,
    format_size,
)
from testbed.spec.base import Strict
from testbed.spec.condition import quantity_of

LARGEST_RANGE = 10_000_000  # maximum number of values
INNER_DIGITS = 3  # significant digits of values inside a logarithmic range
ROUNDING_SLACK = 1e-9  # of a step; tolerance of a range's last value at the range's end
Number = str | int | float


class Range(Strict):
    """Values from one to another, by exactly one of `step`, `factor` and `points`."""

    from_: Any = Field(alias="from")
    to: Any
    step: Any = None
    factor: Annotated[float, Field(gt=1)] | None = None
    points: Annotated[int, Field(strict=True, ge=2, le=LARGEST_RANGE)] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_spacing()
        self._check_numbers()
        return self

    def _check_spacing(self) -> None:
        spacings = {"step": self.step, "factor": self.factor, "points": self.points}
        written = [name for name, value in spacings.items() if value is not None]
        if len(written) != 1:
            raise UnitError(
                "a range needs exactly one of step, factor and points",
                "such as {from: 1 ms, to: 100 ms, points: 5, scale: log}",
            )

        if self.scale == "log" and self.points is None:
            remedy = f"remove scale, or use points instead of {written[0]}"
            raise UnitError("scale: log needs points", remedy)

    def _check_numbers(self) -> None:
        low = self._number(self.from_)
        high = self._number(self.to)
        if low >= high:
            raise UnitError(f"`from` ({self.from_}) must be less than `to` ({self.to})")

        multiplies = self.factor is not None or self.scale == "log"
        if multiplies and low <= 0:
            raise UnitError(f"cannot multiply `from` ({self.from_})", "start above zero")

        if self.step is not None:
            step = self._number(self.step)
            if not step or (high - low) / step > LARGEST_RANGE:
                what = f"{self.step} is not a valid step from {self.from_} to {self.to}"
                raise UnitError(what, "use a step above zero")

    @property
    def quantity(self) -> Quantity | None:
        """The kind of quantity of both ends; None for plain numbers."""
        return quantity_of(self.to)

    def _number(self, value: Any) -> float:
        """Return `value` in base units."""
        if value is None:
            raise UnitError(f"`from` ({self.from_}) must be less than `to` ({self.to})")
        if self.quantity is not None:
            return float(self.quantity.exact(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnitError(
                f"{value!r} and {self.to!r} are different kinds of quantities",
                "give both ends the same kind of unit",
            )

        return float(value)

    def values(self) -> list[Number]:
        """Return all values, as texts with units or as numbers.

        Values inside a logarithmic range are rounded to three significant digits.
        """
        low = self._number(self.from_)
        high = self._number(self.to)
        if self.points is not None:
            inside = self._points_inside(low, high, self.points)
            written = map(self._written, inside)
            return [self.from_, *written, self.to]

        if self.factor is not None:
            ratio = high / low
            count = math.log(ratio) / math.log(self.factor)
            numbers = [low * self.factor**index for index in _steps(count)]
        else:
            step = self._number(self.step)
            count = (high - low) / step
            numbers = [low + step * index for index in _steps(count)]

        written = map(self._written, numbers)
        return [self.from_, *written]

    def _points_inside(self, low: float, high: float, points: int) -> list[float]:
        """Return the numbers between both ends."""
        numbers: list[float] = []
        for index in range(1, points - 1):
            share = index / (points - 1)
            if self.scale == "log":
                number = low * (high / low) ** share
                rounded = f"{number:.{INNER_DIGITS}g}"
                numbers.append(float(rounded))
            else:
                number = low + (high - low) * share
                numbers.append(number)

        return numbers

    def _written(self, number: float) -> Number:
        """Format a number in base units with a unit for people."""
        if self.quantity is None:
            written = [self.from_, self.to, self.step or 0]
            if all(isinstance(value, int) for value in written):
                return round(number)
            return float(f"{number:.12g}")

        if self.quantity is PERCENTAGE:
            probability = float(f"{number / 100:.12g}")
            return format_probability(probability)

        if self.quantity in (TIME, RATE):
            return self.quantity.write(round(number))
        return format_size(round(number))


def _steps(count: float) -> range:
    """Return the indices of the values after the first one."""
    whole_steps = math.floor(count + ROUNDING_SLACK)
    return range(1, whole_steps + 1)


def _kind_of_axis(value: object) -> str:
    return "(range)" if isinstance(value, Mapping | Range) else "(list)"


Axis = Annotated[
    Annotated[Annotated[list[Any], Field(min_length=1)], Tag("(list)")]
    | Annotated[Range, Tag("(range)")],
    Discriminator(_kind_of_axis),
]
Axes = dict[str, Axis]


def values_of(axis: list[Any] | Range) -> list[Any]:
    """Return the values of an axis."""
    if isinstance(axis, Range):
        return axis.values()
    return list(axis)
