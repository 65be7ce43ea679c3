"""Published measurements that an experiment repeats: where they come from, and their values."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from testbed.core.units import Rate, Time
from testbed.spec.base import Mistake, Strict, refuse


class Published(Strict):
    """A published table of times or rates of one operation.

    Each row of `times` or `rates` belongs to a point of the sweep, in the order of the points; each
    value in a row to a size of the point, in the order of the sizes. null: not published.
    """

    title: str
    source: str = Field(description="where the values are published")
    setting: str = Field(description="machines and software of the measurement")
    protocol: str = Field(description="how the authors measured")
    chosen: list[str] = Field([], description="what the publication does not say, and our choice")
    not_counted: str | None = Field(
        None, description="why the table is left out of means over all tables"
    )
    op: str = Field(description="the measured operation")
    rank: Literal["first", "last"] = Field("first", description="the rank whose time is published")
    times: list[list[Time | None]] = Field([], description="times of the operation")
    rates: list[list[Rate | None]] = Field([], description="size divided by time")

    @model_validator(mode="after")
    def _one_quantity(self) -> Self:
        if bool(self.times) == bool(self.rates):
            what = "published values are either times or rates"
            refuse([Mistake(("times",), what, "write one of times and rates")], "Published")
        return self

    @property
    def values(self) -> list[list[int | None]]:
        """The published times in ns, or rates in bit/s."""
        return self.times or self.rates

    @property
    def are_rates(self) -> bool:
        """Whether the values are rates."""
        return bool(self.rates)
