"""Compare the operations of a sweep with published measurements of the same operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from testbed.core.errors import InputError, Place
from testbed.core.units import format_rate, format_size, format_time
from testbed.runfolder.folder import RunDir
from testbed.spec.published import Published
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint

DIGITS = 4


@dataclass(frozen=True)
class Cell:
    """One published value, and the measured one.

    Attributes:
        point: Name of the sweep's point.
        settings: Values of the point's keys, as written.
        size_bytes: Size of the operation.
        published: Published time in ns, or rate in bit/s.
        measured: Mean of the measured iterations, in the same unit; None: the point has not
            completed.
    """

    point: str
    settings: str
    size_bytes: int
    published: int
    measured: float | None

    @property
    def error(self) -> float | None:
        """Measured over published, less one."""
        return None if self.measured is None else self.measured / self.published - 1


@dataclass(frozen=True)
class Reproduction:
    """A published table and its cells."""

    name: str
    published: Published
    cells: list[Cell]

    @property
    def errors(self) -> list[float]:
        """The error of each measured cell."""
        return [cell.error for cell in self.cells if cell.error is not None]

    def text(self, value: float) -> str:
        """Return a value of the table with its unit."""
        if self.published.are_rates:
            return format_rate(round(value), DIGITS)
        return format_time(round(value), DIGITS)

    def rows(self) -> list[list[str]]:
        """Return the table's cells as texts: settings, size, published, measured, error."""
        rows: list[list[str]] = []
        for cell in self.cells:
            measured = "-" if cell.measured is None else self.text(cell.measured)
            error = "-" if cell.error is None else f"{100 * cell.error:+.1f} %"
            size = format_size(cell.size_bytes, DIGITS)
            rows.append([cell.settings, size, self.text(cell.published), measured, error])
        return rows


@dataclass(frozen=True)
class Score:
    """How far measured values are from published ones.

    Attributes:
        values: Number of measured values.
        mean: Mean of the absolute errors.
        worst: The error with the largest absolute value.
    """

    values: int
    mean: float
    worst: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> Self | None:
        """Return the score of errors; None where there are none."""
        if not errors:
            return None
        mean = sum(map(abs, errors)) / len(errors)
        return cls(len(errors), mean, max(errors, key=abs))

    def row(self) -> list[str]:
        """Return the score as texts: values, mean, worst."""
        return [str(self.values), f"{100 * self.mean:.1f} %", f"{100 * self.worst:+.1f} %"]


def scored_errors(reproductions: Iterable[Reproduction]) -> list[float]:
    """Return the errors of all tables that count."""
    errors: list[float] = []
    for found in reproductions:
        if found.published.not_counted is None:
            errors += found.errors
    return errors


def reproduction(name: str, published: Published, sweep: SweepDir) -> Reproduction:
    """Compare the completed points of a sweep with the published values.

    Args:
        name: Name of the experiment.
        published: The published table.
        sweep: The sweep of the experiment.

    Raises:
        InputError: The table has not a row for each point, or not a value for each size.
    """
    index = sweep.read_index()
    if len(index.points) != len(published.values):
        what = f"{len(published.values)} rows for {len(index.points)} points"
        raise InputError(what, place=Place("published"), remedy="write a row for each point")

    done = sweep.done()
    cells: list[Cell] = []
    for point, row in zip(index.points, published.values, strict=True):
        folder = done.get(point.identity)
        run = None if folder is None else RunDir.open(folder)
        cells += _cells(point, row, published, run)
    return Reproduction(name, published, cells)


def _cells(
    point: IndexedPoint, row: list[int | None], published: Published, run: RunDir | None
) -> list[Cell]:
    """Return the published cells of a point; `run` is its run folder, or None."""
    settings = ", ".join(f"{key} {_value(value)}" for key, value in point.values.items())
    measured: dict[int, float] = {}
    if run is not None:
        measured = _times_ns(run, published)
        if len(measured) != len(row):
            what = f"{len(row)} values for the {len(measured)} sizes of {point.name}"
            raise InputError(what, place=Place("published"), remedy="write a value for each size")

    cells: list[Cell] = []
    sizes = list(measured) or [0] * len(row)
    for size, value in zip(sizes, row, strict=True):
        if value is None:
            continue
        figure = measured.get(size)
        if figure is not None and published.are_rates:
            figure = 8e9 * size / figure
        cells.append(Cell(point.name, settings, size, value, figure))
    return cells


def _times_ns(run: RunDir, published: Published) -> dict[int, float]:
    """Return the mean time in ns of the operation at the published rank, by size in bytes."""
    operations = pl.read_parquet(run.ops).filter(op=published.op, phase="measure")
    rank = operations["rank"].min() if published.rank == "first" else operations["rank"].max()
    of_rank = operations.filter(rank=rank)
    time_ns = (pl.col("end_ns") - pl.col("start_ns")).mean()
    means = of_rank.group_by("case", "bytes").agg(time_ns=time_ns).sort("case", "bytes")
    return dict(means.select("bytes", "time_ns").iter_rows())


def _value(value: Any) -> str:
    """Return the value of a key as written; a list of one value as that value."""
    if isinstance(value, list) and len(value) == 1:
        return str(value[0])
    return str(value)
