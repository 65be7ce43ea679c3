"""Choose the columns, labels and bounds that the figures of a sweep show."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from testbed.spec.columns import SUFFIXES
from testbed.spec.experiment import Plot
from testbed.sweep.index import SweepIndex


@dataclass(frozen=True)
class Metric:
    """A measured column: its label, the factor to the label's unit, and the column of its bound."""

    label: str
    factor: float = 1.0
    bound: str | None = None


METRICS = {
    "time_us": Metric("time (ms)", 1e-3, "bound_us"),
    "max_us": Metric("longest time (ms)", 1e-3, "bound_us"),
    "bound_us": Metric("least possible time (ms)", 1e-3),
    "efficiency": Metric("bound / time (%)", 100.0),
    "algbw_gbytes": Metric("algbw (GB/s)", 1.0, "algbw_bound_gbytes"),
    "busbw_gbytes": Metric("busbw (GB/s)", 1.0, "busbw_bound_gbytes"),
    "step_ms": Metric("step (ms)", 1.0, "compute_ms"),
    "utilisation": Metric("computing / time (%)", 100.0),
    "tokens_per_s": Metric("tokens/s"),
    "wan_bytes_per_step": Metric("WAN per step (MiB)", 2**-20),
    "wan_bytes": Metric("WAN (MiB)", 2**-20),
    "wan_drops": Metric("packets dropped by WAN queues"),
    "final_loss": Metric("final loss (nats per token)"),
    "training_s": Metric("time of training (s)"),
    "time_to_loss_s": Metric("time to the loss (s)", 1.0, "compute_to_loss_s"),
    "jobs_s": Metric("time of all jobs (s)"),
    "slowdown": Metric("times as long as alone"),
    "rtt_ms": Metric("RTT (ms)"),
    "bytes": Metric("size (B)"),
}
PREFERRED = ("slowdown", "time_to_loss_s", "step_ms", "time_us", "wan_drops")
FALLBACK = "wall_seconds"


def metric_of(column: str) -> Metric:
    """Return the metric of a column; an unknown column is labelled with its name."""
    return METRICS.get(column) or Metric(column)


@dataclass(frozen=True)
class SweepPlot:
    """The table columns that one figure shows.

    Each value of `series` is a line, or a row of a heat map. Each value of `facet` is a panel.
    """

    x: str
    y: str
    series: str | None = None
    facet: str | None = None
    heat: bool = False
    title: str = ""

    @property
    def columns(self) -> list[str]:
        """All columns that the figure shows."""
        columns = [self.x, self.y]
        if self.series is not None:
            columns.append(self.series)
        if self.facet is not None:
            columns.append(self.facet)
        return columns

    @property
    def metric(self) -> Metric:
        """The metric of `y`."""
        return metric_of(self.y)

    @property
    def heading(self) -> str:
        """The title; by default, a description of the columns."""
        if self.title:
            return self.title
        quantity, _, _unit = self.metric.label.partition(" (")
        return f"{quantity} against {self.x}"


@dataclass(frozen=True)
class PlotRequest:
    """The figure that a user requests; None leaves a choice to the program."""

    x: str | None = None
    y: str | None = None
    series: str | None = None
    facet: str | None = None
    heat: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the user requests nothing."""
        return self == PlotRequest()


def choose_plots(
    index: SweepIndex, points: pl.DataFrame, request: PlotRequest | None = None
) -> list[SweepPlot]:
    """Return the requested figure, or those of the experiment, or a default figure.

    Args:
        index: Index of the sweep.
        points: The table of the points (see `testbed.sweep.results`).
        request: The figure that the user requests.
    """
    if request is not None and not request.is_empty:
        return [_requested_plot(index, points, request)]
    if index.plots:
        return [_experiment_plot(plot) for plot in index.plots]
    return [_default_plot(index, points)]


def _experiment_plot(plot: Plot) -> SweepPlot:
    return SweepPlot(
        x=plot.x,
        y=plot.y,
        series=plot.series,
        facet=plot.facet,
        heat=plot.kind == "heat",
        title=plot.title,
    )


def _requested_plot(index: SweepIndex, points: pl.DataFrame, request: PlotRequest) -> SweepPlot:
    """Complete a request: x, y, and the vertical axis of a heat map.

    `points` is the table of the points (see `testbed.sweep.results`).
    """
    requested = (request.x, request.series, request.facet)
    varying_axes = _varying_axes(index, points)
    free_axes = [axis for axis in varying_axes if axis not in requested]
    x = request.x
    y = request.y
    series = request.series
    if x is None:
        x = _next_axis(free_axes) or _first_axis(index)
    if y is None:
        y = _default_column(points)
    if series is None and request.heat:
        series = _next_axis(free_axes)

    return SweepPlot(x, y, series, request.facet, request.heat)


def _default_plot(index: SweepIndex, points: pl.DataFrame) -> SweepPlot:
    """Return a figure with the first three varying axes of the table as x, lines and panels."""
    axes = _varying_axes(index, points)
    x = _next_axis(axes) or _first_axis(index)
    y = _default_column(points)
    series = _next_axis(axes)
    facet = _next_axis(axes)
    return SweepPlot(x, y, series, facet)


def _next_axis(axes: list[str]) -> str | None:
    """Remove and return the first of the remaining axes."""
    if not axes:
        return None
    return axes.pop(0)


def _varying_axes(index: SweepIndex, points: pl.DataFrame) -> list[str]:
    """Return the axes that have several values in the table of the points, numeric axes first."""
    numeric: list[str] = []
    others: list[str] = []

    for axis in index.axes:
        if axis not in points.columns or points[axis].n_unique() == 1:
            continue
        if number_column(points, axis) is not None:
            numeric.append(axis)
        else:
            others.append(axis)

    return numeric + others


def _first_axis(index: SweepIndex) -> str:
    return index.axes[0] if index.axes else "point"


def _default_column(points: pl.DataFrame) -> str:
    """Return the first preferred column that has a value."""
    for name in PREFERRED:
        if name in points.columns and points[name].null_count() < points.height:
            return name
    return FALLBACK


def number_column(table: pl.DataFrame, name: str) -> str | None:
    """Return the numeric column that belongs to column `name`.

    Returns:
        `name` if that column is numeric, otherwise the column with the same quantities in base
        units; None if neither exists.
    """
    if table[name].dtype.is_numeric():
        return name
    for suffix in SUFFIXES.values():
        column = name + suffix
        if column in table.columns:
            missing = table[name].null_count()
            return column if table[column].null_count() == missing else None
    return None
