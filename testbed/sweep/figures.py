"""Figures of a sweep: line charts and heat maps of table columns, with their theoretical bounds.

The bound is the minimum that the topology allows (`testbed.analysis.lower_bounds`), or for training
the modelled computation alone. Points that agree in every column of a figure are combined: the
figure shows their median, with error bars from the minimum to the maximum. Points that are not
faithful have hollow markers, or an asterisk in a heat map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.report.figures.common import (
    ASTERISK,
    COLOURS,
    GRID_COLOUR,
    LEGEND,
    SHADES,
    faithful_markers,
    is_unfaithful_entry,
    log_scale,
    look,
    unfaithful_entry,
)
from testbed.sweep.plots import PREFERRED, SweepPlot, metric_of, number_column
from testbed.sweep.results import in_present_grid

LOG_SPAN = 20  # minimum ratio of largest to smallest value for a logarithmic axis
HEIGHT = 420  # of a row of panels, in pixels
MOST_PANELS_ACROSS = 3
MOST_TICKS = 10
LEAST_GAP = 0.06  # of the axis; between the labels of two ticks
BOUND_COLOUR = "#7d8791"  # of a bound common to all lines


@dataclass(frozen=True)
class _Panel:
    """One panel of a figure: `rows` are the rows to draw, `table` the rows of all panels."""

    figure: go.Figure
    plot: SweepPlot
    table: pl.DataFrame
    rows: pl.DataFrame
    row: int
    column: int

    @property
    def position(self) -> dict[str, int]:
        return {"row": self.row, "col": self.column}

    @property
    def is_first(self) -> bool:
        return self.row == 1 and self.column == 1


@dataclass(frozen=True)
class _PlotLine:
    """A line of a panel: label, colour, positions on the x axis, and points from `_sum_up`."""

    label: str
    colour: str
    x: list[Any]
    points: pl.DataFrame

    @property
    def has_bound(self) -> bool:
        if "bound" not in self.points.columns:
            return False
        return self.points["bound"].null_count() < self.points.height


def draw(plot: SweepPlot, points: pl.DataFrame, collectives: pl.DataFrame) -> go.Figure | None:
    """Draw a figure from the tables of a sweep.

    Args:
        plot: The columns to show.
        points: One row per point (see `testbed.sweep.results`).
        collectives: One row per point, operation and size, for figures with its columns.

    Returns:
        The figure; None if no completed point has the values.

    Raises:
        InputError: A column does not exist, or y is not numeric.
    """
    table = points
    per_collective = "op" in plot.columns or "bytes" in plot.columns
    if per_collective and not collectives.is_empty():
        table = collectives

    _check_columns(plot, table)
    table = in_present_grid(table).filter(pl.col("state") == "completed")
    table = table.drop_nulls([plot.x, plot.y])
    if table.is_empty():
        return None

    return _draw_panels(plot, table)


def _check_columns(plot: SweepPlot, table: pl.DataFrame) -> None:
    """Check that the table of the points has the columns of a figure, and numbers on y.

    Raises:
        InputError: a column is unknown, or y holds no numbers.
    """
    for name in plot.columns:
        if name not in table.columns:
            remedy = suggest(name, table.columns, "known columns")
            raise InputError(f"unknown column {name!r}", remedy=remedy)
    if not table[plot.y].dtype.is_numeric():
        remedy = f"choose one such as {', '.join(PREFERRED)}"
        raise InputError(f"the column {plot.y!r} holds no numbers", remedy=remedy)


def _draw_panels(plot: SweepPlot, table: pl.DataFrame) -> go.Figure:
    """Draw a panel for each value of the column `plot.facet` in the table of the points."""
    facets = _distinct_values(table, plot.facet)
    across = min(len(facets), MOST_PANELS_ACROSS)
    down = math.ceil(len(facets) / across)
    titles = [""] * len(facets)
    if plot.facet is not None:
        titles = [f"{plot.facet}: {escape(str(value))}" for value in facets]

    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=titles,
        shared_yaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.24 / down,
    )

    for number, value in enumerate(facets):
        rows = _rows_with(table, plot.facet, value)
        row, column = divmod(number, across)
        panel = _Panel(figure, plot, table, rows, row + 1, column + 1)
        if plot.heat:
            _draw_heat_map(panel)
        else:
            _draw_lines(panel)

    if _unfaithful_rows(table).any():
        figure.add_trace(unfaithful_entry(heat=plot.heat), row=1, col=1)
    _style(figure, down)
    return figure


def _unfaithful_rows(table: pl.DataFrame) -> pl.Series:
    """Return for each row whether its run is not faithful."""
    if "faithful" not in table.columns:
        return pl.repeat(False, table.height, eager=True)
    return (table["faithful"].cast(pl.Boolean) == False).fill_null(False)  # noqa: E712 (polars)


def marks_unfaithful(figure: go.Figure) -> bool:
    """Return whether a figure shows points that are not faithful."""
    return any(is_unfaithful_entry(trace) for trace in figure.data)


def _draw_lines(panel: _Panel) -> None:
    lines = _lines_of(panel)
    for line in lines:
        _add_measured(panel, line)
    _add_bounds(panel, [line for line in lines if line.has_bound])
    _style_x(panel)
    _style_y(panel)


def _lines_of(panel: _Panel) -> list[_PlotLine]:
    plot = panel.plot
    axis_numbers = _axis_numbers(panel)
    lines: list[_PlotLine] = []
    series_values = _distinct_values(panel.table, plot.series)

    for number, value in enumerate(series_values):
        label = plot.metric.label
        if plot.series is not None:
            label = escape(str(value))
        colour = COLOURS[number % len(COLOURS)]
        rows = _rows_with(panel.rows, plot.series, value)
        points = _sum_up(rows, plot)
        x = _axis_places(points["x"].to_list(), axis_numbers)
        lines.append(_PlotLine(label, colour, x, points))

    return lines


def _axis_numbers(panel: _Panel) -> list[float]:
    """Return the numbers on the x axis; empty if the axis has texts."""
    name = number_column(panel.table, panel.plot.x)
    if name is None:
        return []
    return panel.table[name].to_list()


def _add_measured(panel: _Panel, line: _PlotLine) -> None:
    points = line.points
    y, low, high = points["y"], points["low"], points["high"]
    error_bars = None
    if (high > low).any():
        error_bars = {
            "type": "data",
            "array": (high - y).to_list(),
            "thickness": 1,
            "width": 3,
            "arrayminus": (y - low).to_list(),
        }

    panel.figure.add_scatter(
        x=line.x,
        y=y.to_list(),
        name=line.label,
        legendgroup=line.label,
        showlegend=panel.is_first,
        mode="lines+markers",
        line={"color": line.colour, "width": 2},
        marker=faithful_markers(points["unfaithful"].to_list()),
        text=points["text"].to_list(),
        error_y=error_bars,
        hovertemplate="%{text}: %{y:.4g}<extra>" + line.label + "</extra>",
        **panel.position,
    )


def _add_bounds(panel: _Panel, lines: Sequence[_PlotLine]) -> None:
    """Add the bound of each line, or one grey line if all bounds look alike."""
    shown_bounds: set[tuple[str, ...]] = set()
    for line in lines:
        bounds = line.points["bound"]
        shown_bounds.add(tuple(map(_rounded, bounds)))

    alike = len(lines) > 1 and len(shown_bounds) == 1
    if alike:
        _add_bound(panel, lines[0], "bound", "bound", BOUND_COLOUR)
        return

    for line in lines:
        name = f"{line.label}, bound"
        _add_bound(panel, line, name, line.label, line.colour)


def _add_bound(panel: _Panel, line: _PlotLine, name: str, legend_group: str, colour: str) -> None:
    panel.figure.add_scatter(
        x=line.x,
        y=line.points["bound"].to_list(),
        name=name,
        legendgroup=legend_group,
        showlegend=panel.is_first,
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        text=line.points["text"].to_list(),
        hovertemplate="%{text}: %{y:.4g}<extra>" + name + "</extra>",
        **panel.position,
    )


@dataclass
class _Heat:
    """Values and texts of the cells of a heat map, one list per value of the vertical axis."""

    values: list[list[float | None]]
    texts: list[list[str]]


def _draw_heat_map(panel: _Panel) -> None:
    """Draw cells with the value and, below the value, the ratio of bound to value."""
    plot, table = panel.plot, panel.table
    across = [str(value) for value in _distinct_values(table, plot.x)]
    down = _distinct_values(table, plot.series)
    heat = _heat_of(panel, across, down)
    shown = (table[plot.y] * plot.metric.factor).to_list()
    low, high = min(shown), max(shown)
    values = heat.values
    if _is_log(shown):
        low, high = math.log10(low), math.log10(high)
        values = [_logarithms(row) for row in values]

    panel.figure.add_heatmap(
        z=values,
        x=across,
        y=[str(value) for value in down],
        text=heat.texts,
        zmin=low,
        zmax=high,
        texttemplate="%{text}",
        colorscale=SHADES,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{x}, %{y}<br>%{text}<extra></extra>",
        **panel.position,
    )

    category = {"type": "category", "showgrid": False, **panel.position}
    y_title = plot.series if panel.column == 1 else ""
    panel.figure.update_xaxes(title=plot.x, **category)
    panel.figure.update_yaxes(title=y_title, **category)


def _heat_of(panel: _Panel, across: Sequence[str], down: Sequence[Any]) -> _Heat:
    heat = _Heat([], [])

    for series_value in down:
        rows = _rows_with(panel.rows, panel.plot.series, series_value)
        points = _sum_up(rows, panel.plot)
        cells = {cell["text"]: cell for cell in points.iter_rows(named=True)}
        values: list[float | None] = []
        texts: list[str] = []
        for name in across:
            cell = cells.get(name)
            values.append(None if cell is None else cell["y"])
            texts.append(_cell_text(cell))
        heat.values.append(values)
        heat.texts.append(texts)

    return heat


def _logarithms(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else math.log10(value) for value in values]


def _cell_text(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    value, bound = cell["y"], cell.get("bound")
    text = f"{value:.3g}"
    if cell["unfaithful"]:
        text += ASTERISK
    if not bound or not value:
        return text
    percentage = 100 * min(bound, value) / max(bound, value)
    return f"{text}<br>{percentage:.0f} %"


def _sum_up(rows: pl.DataFrame, plot: SweepPlot) -> pl.DataFrame:
    """Combine the rows that have the same x.

    Returns:
        Columns x (a number where the axis has numbers), text (x as written), y, low, high (median,
        least and largest, in the metric's unit), unfaithful (whether any of the rows is), and bound
        (median) if there is one; sorted by x where x is a number.
    """
    number_name = number_column(rows, plot.x)
    rows = rows.with_columns(unfaithful=_unfaithful_rows(rows))
    text = rows[plot.x].cast(pl.String)
    x = rows[number_name or plot.x]
    groups = rows.with_columns(text=text, x=x).group_by("x", "text", maintain_order=True)
    points = groups.agg(**_statistics(plot, rows.columns))
    if number_name is None:
        return points
    return points.sort("x")


def _statistics(plot: SweepPlot, columns: Sequence[str]) -> dict[str, pl.Expr]:
    """Return the expressions of the computed columns of `_sum_up`, in the metric's unit."""
    factor = plot.metric.factor
    bound_name = plot.metric.bound
    y = pl.col(plot.y) * factor
    statistics = {
        "y": y.median(),
        "low": y.min(),
        "high": y.max(),
        "unfaithful": pl.col("unfaithful").any(),
    }
    if bound_name is not None and bound_name in columns:
        bound = pl.col(bound_name) * factor
        statistics["bound"] = bound.median()
    return statistics


def _rows_with(table: pl.DataFrame, column: str | None, value: Any) -> pl.DataFrame:
    """Return the rows that have a value in a column; all rows if `column` is None."""
    if column is None:
        return table
    return table.filter(pl.col(column) == value)


def _distinct_values(table: pl.DataFrame, column: str | None) -> list[Any]:
    """Return a column's distinct values: numbers and quantities by size, others in table order.

    Without a column the only value is None.
    """
    if column is None:
        return [None]
    number_name = number_column(table, column)
    if number_name is not None:
        table = table.sort(number_name)
    return table[column].drop_nulls().unique(maintain_order=True).to_list()


def _style_x(panel: _Panel) -> None:
    name = panel.plot.x
    number_name = number_column(panel.table, name)
    if number_name is None:
        panel.figure.update_xaxes(title=name, type="category", **panel.position)
        return

    number = pl.col(number_name)
    text = pl.col(name).cast(pl.String)
    ticks = panel.table.select(x=number, text=text).unique().sort("x")
    numbers = ticks["x"].to_list()
    places = _axis_places(numbers, numbers)
    texts = ticks["text"].to_list()
    step = 1 + ticks.height // MOST_TICKS
    shown = _apart(range(0, ticks.height, step), places)
    panel.figure.update_xaxes(
        title=metric_of(name).label,
        type="log" if _is_log(places) else "linear",
        tickvals=[places[position] for position in shown],
        ticktext=[texts[position] for position in shown],
        minor_ticks="",
        **panel.position,
    )


def _apart(positions: Iterable[int], places: Sequence[float]) -> list[int]:
    """Return those of `positions` whose labels do not cover that of an earlier one.

    Args:
        positions: Indices into `places`, ascending.
        places: Places of all ticks on the axis, ascending.
    """
    on_axis = places
    if _is_log(places):
        on_axis = [math.log(place) for place in places]
    span = on_axis[-1] - on_axis[0]
    kept: list[int] = []
    for position in positions:
        if not kept or on_axis[position] - on_axis[kept[-1]] >= LEAST_GAP * span:
            kept.append(position)
    return kept


def _style_y(panel: _Panel) -> None:
    metric = panel.plot.metric
    table = panel.table
    values: list[float] = []
    for name in (panel.plot.y, metric.bound):
        if name in table.columns:
            column = table[name] * metric.factor
            values += column.drop_nulls().to_list()

    scale = _y_scale(values)
    panel.figure.update_yaxes(**scale, **panel.position)
    if panel.column == 1:
        panel.figure.update_yaxes(title=metric.label, **panel.position)


def _axis_places(values: Sequence[Any], axis_numbers: Sequence[float]) -> list[Any]:
    """Return the positions of values on an axis.

    Args:
        values: The values to position.
        axis_numbers: All numbers of the axis; empty for an axis of texts.

    Returns:
        The values; on a logarithmic axis with zero among its numbers, zero goes a decade below the
        least of the others.
    """
    positive = [number for number in axis_numbers if number > 0]
    if not positive or not _is_log(positive):
        return list(values)
    if min(axis_numbers) != 0:
        return list(values)
    place_of_zero = min(positive) / 10
    return [value or place_of_zero for value in values]


def _rounded(value: float | None) -> str:
    """Format a value with the number of digits that figures show."""
    if value is None:
        return ""
    return f"{value:.4g}"


def _is_log(values: Sequence[float]) -> bool:
    least = min(values)
    largest = max(values)
    return least > 0 and largest / least >= LOG_SPAN


def _y_scale(values: Sequence[float]) -> dict[str, Any]:
    if not _is_log(values):
        return {"type": "linear", "rangemode": "tozero"}
    return log_scale(values)


def _style(figure: go.Figure, rows_of_panels: int) -> None:
    layout = {
        **look(HEIGHT * rows_of_panels),
        "margin": {"l": 64, "r": 10, "t": 60, "b": 56},
        "legend": {**LEGEND, "y": 1.08},
    }
    figure.update_layout(layout)
    figure.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=GRID_COLOUR, zeroline=False, automargin=True)
