"""Headings and cells of a sweep's table for people: times and shares with their unit."""

from __future__ import annotations

from testbed.core.units import format_cell, format_microseconds, format_share

# Columns of times, with the microseconds in their unit; the heading leaves the unit out.
TIMES = {
    "time_us": 1,
    "max_us": 1,
    "bound_us": 1,
    "step_ms": 1000,
    "compute_ms": 1000,
    "rtt_ms": 1000,
}
SHARES = ("efficiency", "utilisation", "wan_utilisation")


def heading(column: str) -> str:
    """Return the heading of a column: its name, without the unit that the cells have.

    Args:
        column: Name of the column in sweep.parquet.
    """
    return column.rpartition("_")[0] if column in TIMES else column


def column_of(name: str, columns: list[str]) -> str:
    """Return the column of a heading, or the name itself.

    Args:
        name: Heading, or name of a column.
        columns: All columns of the table.
    """
    for column in columns:
        if name not in columns and heading(column) == name:
            return column
    return name


def cell(column: str, value: object) -> str:
    """Return a value as the text of a cell.

    Args:
        column: Name of the column in sweep.parquet.
        value: A value of the column.
    """
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int | float) and column in TIMES:
        return format_microseconds(value * TIMES[column])
    if isinstance(value, int | float) and column in SHARES:
        return format_share(value)
    return format_cell(value)
