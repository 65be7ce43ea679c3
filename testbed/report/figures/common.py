"""Look, axes and colours that figures share, and the figures of collectives and of training.

Backgrounds are transparent: the page's style sheet colours text and grid for light and for dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import plotly.graph_objects as go
import polars as pl

from testbed.analysis.network_history import History
from testbed.core.units import format_size
from testbed.runfolder.records import GLOO
from testbed.runfolder.summary import CollectiveRow

COLOURS = (
    "#2f7ed8",
    "#e07b00",
    "#1a9c6b",
    "#c2468f",
    "#8a6fe0",
    "#a98600",
    "#3aa6b9",
    "#d1495b",
    "#7a8a99",
)
CHANGE_COLOUR = "#d1495b"
GRID_COLOUR = "#8884"
TRANSPARENT = "rgba(0,0,0,0)"
SHADES = (  # colours of heat maps, each with legible text
    (0.0, "rgba(63,143,220,0.06)"),
    (1.0, "rgba(63,143,220,0.85)"),
)
USE_COLOURS = (  # idle, a little, half, much, full; legible on light and on dark
    (0.0, "rgba(125,135,145,0.10)"),
    (0.04, "rgba(63,143,220,0.35)"),
    (0.5, "#3f8fdc"),
    (0.8, "#a65cc0"),
    (1.0, "#f08a00"),
)
UNFAITHFUL = "not faithful"  # legend entry of points that are not faithful
HOLLOW = "circle-open"  # marker of such points
UNFAITHFUL_COLOUR = "#7d8791"
FULL = "circle"  # marker of faithful points
ASTERISK = " *"  # after the value of such points in a heat map
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
RUN_CLOCK = "time (s, run's clock)"
MOST_MARKS = 60  # changes of the network marked in a figure
MOST_SIZE_TICKS = 8

AxisSettings: TypeAlias = dict[str, Any]  # plotly's layout.xaxis or layout.yaxis
Trace: TypeAlias = Any  # a plotly trace; plotly has no types


class OperationKey(NamedTuple):
    """The fields shared by the rows of collectives that form one line of a figure."""

    op: str
    ranks: int
    dtype: str
    algorithm: str
    group: str = ""
    root: int | None = None

    @classmethod
    def of(cls, row: CollectiveRow) -> OperationKey:
        """Return the key of a row."""
        return cls(row.op, row.ranks, row.dtype, row.algorithm, row.group_name, row.root)


def latency_figure(collectives: Sequence[CollectiveRow]) -> go.Figure | None:
    """Draw median time against size, both logarithmic: a line per operation, its bound dashed.

    Returns:
        The figure, or None if no operation has a size.
    """
    rows = sized_rows(collectives)
    if not rows:
        return None
    keys = operation_keys(rows)
    traces: list[Trace] = []

    for key, colour in zip(keys, cycle(COLOURS), strict=False):
        operation_rows = [row for row in rows if OperationKey.of(row) == key]
        name = operation_name(key, keys)
        traces.append(_measured_trace(operation_rows, name, colour))
        traces.append(_bound_trace(operation_rows, name, colour))
    return drawing(traces, 440, *log_axes(rows))


def sized_rows(collectives: Sequence[CollectiveRow]) -> list[CollectiveRow]:
    """Return the rows of operations that move data, sorted by size."""
    rows = [row for row in collectives if row.bytes > 0]
    rows.sort(key=lambda row: row.bytes)
    return rows


def operation_keys(rows: Sequence[CollectiveRow]) -> list[OperationKey]:
    """Return the distinct keys of rows, in the order of the rows."""
    return list(dict.fromkeys(OperationKey.of(row) for row in rows))


def operation_name(key: OperationKey, keys: Sequence[OperationKey]) -> str:
    """Return the name of an operation, as HTML.

    The name includes the algorithm unless gloo's own is used, and ranks, type, group and root where
    several of `keys` have the same operation and differ in them.

    Args:
        key: the operation.
        keys: all operations of the figure.
    """
    name = key.op
    if key.algorithm != GLOO:
        name = f"{key.algorithm} {name}"
    same_op = [other for other in keys if other.op == key.op]
    if len(same_op) > 1:
        name += f", {key.ranks} ranks, {key.dtype}"
    if len({other.group for other in same_op}) > 1:
        name += f", {key.group}"
    if len({other.root for other in same_op}) > 1:
        name += f", root {key.root}"
    return escape(name)


def log_axes(rows: Sequence[CollectiveRow]) -> tuple[AxisSettings, AxisSettings]:
    """Return the logarithmic axes of size and time for rows sorted by size."""
    sizes = _size_ticks(rows[0].bytes, rows[-1].bytes)
    size_axis = axis(
        "size of the data",
        type="log",
        tickvals=sizes,
        ticktext=[format_size(size, 3) for size in sizes],
    )

    times_ms = []

    for row in rows:
        for time_us in (row.time_us.max, row.bound_us or 0):
            if time_us > 0:
                times_ms.append(time_us / 1000)
    time_axis = axis("time (ms)", **log_scale(times_ms or [1.0]))
    return size_axis, time_axis


def log_scale(values: Sequence[float]) -> dict[str, Any]:
    """Return the settings of a logarithmic axis for `values`, all above zero.

    The axis has ticks at 1, 2 and 5 times the powers of ten that span the values.
    """
    lowest = math.floor(math.log10(min(values)))
    highest = math.ceil(math.log10(max(values)))
    ticks = []
    for exponent in range(lowest, highest + 1):
        power = 10.0**exponent
        ticks += [power, 2 * power, 5 * power]
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _size_ticks(least: int, most: int) -> list[int]:
    """Return powers of two that span the sizes, or the size itself if there is only one."""
    if least == most:
        return [least]
    lowest = round(math.log2(least))
    highest = round(math.log2(most))

    step = 1 + (highest - lowest) // MOST_SIZE_TICKS
    return [2**exponent for exponent in range(lowest, highest + 1, step)]


def _measured_trace(rows: Sequence[CollectiveRow], name: str, colour: str) -> Trace:
    """Return the medians of one operation, with bars from the shortest to the longest iteration."""
    medians = np.array([row.time_us.median for row in rows]) / 1000
    shortest = np.array([row.time_us.min for row in rows]) / 1000
    longest = np.array([row.time_us.max for row in rows]) / 1000

    bars = {
        "type": "data",
        "array": longest - medians,
        "arrayminus": medians - shortest,
        "width": 3,
        "thickness": 1,
    }
    return go.Scatter(
        x=[row.bytes for row in rows],
        y=medians,
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        error_y=bars,
        text=[format_size(row.bytes, 3) for row in rows],
        hovertemplate="%{text}: %{y:.4g} ms<extra>" + name + "</extra>",
    )


def _bound_trace(rows: Sequence[CollectiveRow], name: str, colour: str) -> Trace:
    """Return the known lower bounds of one operation as a dashed line."""
    sizes = []
    bounds_ms = []

    for row in rows:
        if row.bound_us:
            sizes.append(row.bytes)
            bounds_ms.append(row.bound_us / 1000)
    return go.Scatter(
        x=sizes,
        y=bounds_ms,
        name=f"{name}, bound",
        legendgroup=name,
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        text=[format_size(row.bytes, 3) for row in rows],
        hovertemplate="%{text}: %{y:.4g} ms<extra>" + name + ", bound</extra>",
    )


def loss_figure(
    runs: Mapping[str, pl.DataFrame], history: History | None = None
) -> go.Figure | None:
    """Draw mean loss over the ranks against time since training began, with a curve per run.

    Args:
        runs: train.parquet of each run, by the run's name (step, start_ns, end_ns: integers, loss:
            float64, null where a rank computed none).
        history: the network of a single run, whose changes are marked.

    Returns:
        The figure, or None if no run has two steps with a loss.
    """
    traces = []
    for (name, steps), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        curve = _loss_curve(steps)
        if curve.height >= 2:
            traces.append(_loss_trace(curve, name, colour))
    if not traces:
        return None

    marks: list[dict[str, Any]] = []
    if history is not None:
        begin_ns = min(min(steps["start_ns"], default=0) for steps in runs.values())
        marks = change_marks(history, begin_ns)
    return drawing(
        traces,
        380,
        axis(RUN_CLOCK, rangemode="tozero"),
        axis("loss (nats per token)"),
        shapes=marks,
    )


def _loss_curve(steps: pl.DataFrame) -> pl.DataFrame:
    """Return the mean loss per step of a run.

    Returns:
        A row for each step with a loss, sorted: step, seconds (float64, from the start of training
        to the last rank's end of the step), loss (float64, mean over the ranks).
    """
    last_end = pl.col("end_ns").max()
    seconds = (last_end - steps["start_ns"].min()) / 1e9
    curve = steps.group_by("step").agg(seconds=seconds, loss=pl.col("loss").mean())
    return curve.drop_nulls().sort("step")


def _loss_trace(curve: pl.DataFrame, name: str, colour: str) -> Trace:
    """Return a line of the training loss; `curve` has the columns seconds and loss (Float64)."""
    return go.Scatter(
        x=curve["seconds"].to_list(),
        y=curve["loss"].to_list(),
        mode="lines",
        name=escape(name),
        line={"color": colour, "width": 2},
        hovertemplate="%{x:.4g} s: %{y:.4g}",
    )


def axis(title: str, **settings: Any) -> AxisSettings:
    """Return an axis in the common look; `settings` are plotly's."""
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": GRID_COLOUR,
        "zeroline": False,
        **settings,
    }


def drawing(
    traces: Sequence[Trace],
    height: int,
    x: AxisSettings,
    y: AxisSettings,
    *,
    legend: Mapping[str, Any] | None = None,
    **layout: Any,
) -> go.Figure:
    """Return a figure in the common look.

    The figure is built in one step: plotly 6 takes 14 ms for each change to an existing figure.

    Args:
        traces: the traces to draw.
        height: height of the figure in px.
        x: the horizontal axis.
        y: the vertical axis.
        legend: settings of the legend that differ from the common look.
        layout: further settings of plotly's layout.
    """
    settings = {
        **look(height),
        "legend": {**LEGEND, **(legend or {})},
        "xaxis": x,
        "yaxis": {"automargin": True, **y},
        **layout,
    }
    return go.Figure(traces, settings)


def look(height: int) -> dict[str, Any]:
    """Return the plotly layout settings that all figures share, for a height in px."""
    return {
        "template": "none",
        "height": height,
        "paper_bgcolor": TRANSPARENT,
        "plot_bgcolor": TRANSPARENT,
        "autosize": True,
        "margin": {"l": 60, "r": 10, "t": 36, "b": 50},
        "font": {"family": "system-ui, sans-serif", "size": 13},
    }


def change_marks(history: History, origin_ns: int) -> list[dict[str, Any]]:
    """Return vertical lines that mark the changes of the network in a figure over time.

    Args:
        history: the run's network over time.
        origin_ns: Unix time in ns at which the figure's time begins.

    Returns:
        Plotly shapes; none if there are too many changes to distinguish.
    """
    if len(history.times_ns) > MOST_MARKS:
        return []
    return list(_change_marks(history, origin_ns))


def _change_marks(history: History, origin_ns: int) -> Iterator[dict[str, Any]]:
    for time_ns in history.times_ns:
        seconds = (time_ns - origin_ns) / 1e9
        yield {
            "type": "line",
            "yref": "paper",
            "x0": seconds,
            "x1": seconds,
            "y0": 0,
            "y1": 1,
            "line": {"width": 1, "dash": "dot", "color": CHANGE_COLOUR},
        }


def colour_bar(title: str) -> dict[str, Any]:
    """Return the legend of a heat map whose values are per cent."""
    return {
        "title": {"text": title, "side": "top"},
        "ticksuffix": " %",
        "thickness": 12,
        "outlinewidth": 0,
    }


def faithful_markers(unfaithful: Sequence[bool]) -> dict[str, Any]:
    """Return plotly's settings of markers, hollow for each point that is not faithful."""
    symbols = [HOLLOW if is_hollow else FULL for is_hollow in unfaithful]
    sizes = [10 if is_hollow else 6 for is_hollow in unfaithful]
    return {"symbol": symbols, "size": sizes}


def unfaithful_entry(*, heat: bool = False) -> Trace:
    """Return a trace without points that adds the legend entry of points that are not faithful.

    Args:
        heat: whether the figure is a heat map, where an asterisk marks such points.
    """
    return go.Scatter(
        x=[None],
        y=[None],
        name=f"{ASTERISK.strip()} {UNFAITHFUL}" if heat else UNFAITHFUL,
        mode="markers",
        marker={"symbol": HOLLOW, "size": 10, "color": UNFAITHFUL_COLOUR},
        showlegend=True,
        hoverinfo="skip",
    )


def is_unfaithful_entry(trace: Trace) -> bool:
    """Return whether a trace is an `unfaithful_entry`."""
    if trace.type != "scatter" or trace.mode != "markers":
        return False
    return bool(trace.marker.symbol == HOLLOW)
