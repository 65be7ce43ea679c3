"""What a swept key goes through: a list of values, or a range."""

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

MOST_OF_A_RANGE = 10_000_000
DIGITS = 3  # significant ones of what lies inside a logarithmic range
Number = str | int | float


class Range(Strict):
    """Values from `from` to `to`: `step` apart, each `factor` times the one before, or so many
    `points`.
    """

    from_: Any = Field(alias="from")
    to: Any
    step: Any = None
    factor: Annotated[float, Field(gt=1)] | None = None
    points: Annotated[int, Field(strict=True, ge=2, le=MOST_OF_A_RANGE)] | None = None
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [name for name in ("step", "factor", "points") if getattr(self, name) is not None]
        if len(ways) != 1:
            raise UnitError(
                "a range needs one of step, factor and points",
                "as in {from: 1 ms, to: 100 ms, points: 5, scale: log}",
            )
        if self.scale == "log" and ways != ["points"]:
            raise UnitError(
                "scale: log needs points", f"leave out scale, or write points instead of {ways[0]}"
            )
        low, high, step = (self._number(value) for value in (self.from_, self.to, self.step))
        if low is None or high is None or low >= high:
            raise UnitError(f"a range goes up: from {self.from_} is not below to {self.to}")
        if low <= 0 and (self.factor is not None or self.scale == "log"):
            raise UnitError(f"from {self.from_} cannot be multiplied", "begin above zero")
        if self.step is not None and (not step or (high - low) / step > MOST_OF_A_RANGE):
            raise UnitError(
                f"{self.step} is no step from {self.from_} to {self.to}", "write one above zero"
            )
        return self

    @property
    def quantity(self) -> Quantity | None:
        """Of its ends; none for plain numbers."""
        return quantity_of(self.to)

    def _number(self, value: Any) -> float | None:
        """`value` in base units."""
        if value is None:
            return None
        if self.quantity is not None:
            return float(self.quantity.exact(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnitError(
                f"{value!r} is not of the same kind as {self.to!r}",
                "give both ends the same kind of unit",
            )
        return float(value)

    def values(self) -> list[Number]:
        """The values as text with units, or as numbers; those inside have three significant
        digits.
        """
        low, high, step = (self._number(value) or 0.0 for value in (self.from_, self.to, self.step))
        if self.points is not None:
            shares = [index / (self.points - 1) for index in range(self.points)]
            if self.scale == "log":
                found = [low * (high / low) ** share for share in shares]
            else:
                found = [low + (high - low) * share for share in shares]
            inside = [_rounded(value) if self.scale == "log" else value for value in found[1:-1]]
            return [self.from_, *(self._text(value) for value in inside), self.to]
        if self.factor is not None:
            count = math.floor(math.log(high / low) / math.log(self.factor) + 1e-9)
            return [self.from_, *(self._text(low * self.factor**i) for i in range(1, count + 1))]
        count = math.floor((high - low) / step + 1e-9)
        return [self.from_, *(self._text(low + step * i) for i in range(1, count + 1))]

    def _text(self, number: float) -> Number:
        if self.quantity is None:
            whole = all(isinstance(value, int) for value in (self.from_, self.to, self.step or 0))
            return round(number) if whole else float(f"{number:.12g}")
        if self.quantity is PERCENTAGE:
            return format_probability(float(f"{number / 100:.12g}"))
        if self.quantity in (TIME, RATE):
            return self.quantity.write(round(number))
        return format_size(round(number))


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")


Axis = Annotated[
    Annotated[Annotated[list[Any], Field(min_length=1)], Tag("(list)")]
    | Annotated[Range, Tag("(range)")],
    Discriminator(lambda value: "(range)" if isinstance(value, Mapping | Range) else "(list)"),
]
Axes = dict[str, Axis]


def values_of(axis: list[Any] | Range) -> list[Any]:
    """What an axis goes through."""
    return axis.values() if isinstance(axis, Range) else list(axis)
