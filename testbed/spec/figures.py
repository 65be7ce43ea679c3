"""The figures of a run that conditions may name, with their units.

Each measured column of a sweep's table (`testbed.spec.columns`) is a figure. A column of times also
has a name without its unit, whose value is compared with quantities: ``time <= 200 ms`` and
``time_us <= 200000`` mean the same. Shares and sizes are compared with percentages and sizes:
``utilisation >= 90 %``, ``wan_bytes < 10 GB``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.core.units import (
    format_cell,
    format_decimal_size,
    format_rate,
    format_share,
    format_time,
)
from testbed.spec.columns import measured_columns
from testbed.spec.condition import Measure

DIGITS = 4  # significant digits of figures for people
# Columns of times, with the nanoseconds in their unit.
TIMES = {
    "time_us": 10**3,
    "max_us": 10**3,
    "bound_us": 10**3,
    "step_ms": 10**6,
    "compute_ms": 10**6,
    "rtt_ms": 10**6,
    "training_s": 10**9,
    "jobs_s": 10**9,
    "time_to_loss_s": 10**9,
    "compute_to_loss_s": 10**9,
}
SHARES = ("median_within", "efficiency", "utilisation", "wan_utilisation")
SIZES = ("bytes", "wan_bytes", "wan_bytes_per_step")
NOT_MEASURED = ("repeat", "seed", "wall_seconds", "cpu_seconds", "emulated_seconds", "attempt")
GIGABYTES = {"algbw": "algbw_gbytes", "busbw": "busbw_gbytes"}
NEVER = ("time_to_loss_s", "compute_to_loss_s")  # columns in which a missing value means: never
SYNONYMS = {"compute_utilisation": "utilisation"}  # the name in summary.json


@dataclass(frozen=True)
class RunFigure:
    """A figure of a run that a condition may name.

    Attributes:
        column: Column of the sweep's table.
        factor: Base units in one unit of the column.
        quantity: Name of the kind of quantity; empty for a plain number.
    """

    column: str
    factor: float = 1.0
    quantity: str = ""

    def measure(self, value: float) -> Measure:
        """Return a value of the column in base units."""
        return Measure(value * self.factor, self.quantity)

    def text(self, value: float | None) -> str:
        """Return a value of the column for people, with its unit; "-" without a value."""
        if value is None:
            return "-"
        number = value * self.factor
        if self.quantity == "percentage":
            return format_share(number / 100)
        if self.quantity == "time":
            return format_time(round(number), DIGITS)
        if self.quantity == "rate":
            return format_rate(round(number), DIGITS)
        if self.quantity == "size":
            return format_decimal_size(round(number), DIGITS)
        return format_cell(value)


def run_figures() -> dict[str, RunFigure]:
    """Return all figures that conditions may name."""
    _columns, numbers = measured_columns(["any"], has_target=True)
    figures: dict[str, RunFigure] = {}
    for column in numbers:
        if column not in NOT_MEASURED:
            figures[column] = RunFigure(column)

    for column, nanoseconds in TIMES.items():
        name = column.rpartition("_")[0]
        figures[name] = RunFigure(column, nanoseconds, "time")
    for column in SHARES:
        figures[column] = RunFigure(column, 100.0, "percentage")
    for column in SIZES:
        figures[column] = RunFigure(column, 1.0, "size")
    for name, column in GIGABYTES.items():
        figures[name] = RunFigure(column, 8e9, "rate")
    for synonym, name in SYNONYMS.items():
        figures[synonym] = figures[name]
    return figures


def measures(figures: Mapping[str, RunFigure], row: Mapping[str, Any]) -> dict[str, Measure]:
    """Return the measured values of a run by the name of the figure.

    Args:
        figures: The figures to return.
        row: Columns of the run's row in the sweep's table.
    """
    values: dict[str, Measure] = {}
    for name, figure in figures.items():
        value = row.get(figure.column)
        if value is not None:
            values[name] = figure.measure(value)
    return values
