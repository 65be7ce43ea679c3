"""Figures of a run. Backgrounds are transparent; the page's style sheet colours text and grid for
light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects as go
import polars as pl

from testbed.analysis.network_history import History
from testbed.core.units import format_size

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
SHADES = (
    (0.0, "rgba(63,143,220,0.06)"),
    (1.0, "rgba(63,143,220,0.85)"),
)  # of heat maps; text is legible on each
MOST_MARKS = 60  # changes of the network in a figure
Axis: TypeAlias = dict[str, Any]  # plotly's layout.xaxis or layout.yaxis
Trace: TypeAlias = Any  # one of plotly's, which has no types
OperationKey = tuple[str, int, str, str]  # op, ranks, dtype, algorithm
USE_COLOURS = (  # idle, a little, half, much, full; legible on light and on dark
    (0.0, "rgba(125,135,145,0.10)"),
    (0.04, "rgba(63,143,220,0.35)"),
    (0.5, "#3f8fdc"),
    (0.8, "#a65cc0"),
    (1.0, "#f08a00"),
)


def latency_figure(collectives: list[dict[str, Any]]) -> go.Figure | None:
    """Median time against size, both logarithmic: a line per operation, its lower bound dashed.
    None without sizes.
    """
    rows = sorted((row for row in collectives if row["bytes"] > 0), key=lambda row: row["bytes"])
    if not rows:
        return None
    traces: list[Trace] = []
    keys = list(dict.fromkeys(operation_key(row) for row in rows))
    for i, key in enumerate(keys):
        mine = [row for row in rows if operation_key(row) == key]
        traces += _operation(mine, operation_name(key, keys), COLOURS[i % len(COLOURS)])
    return drawing(traces, 440, *log_axes(rows))


def log_axes(rows: list[dict[str, Any]]) -> tuple[Axis, Axis]:
    """Axes of size and time for `rows` of collectives, sorted by size."""
    shown = _size_ticks(rows[0]["bytes"], rows[-1]["bytes"])
    ticks = _ticks(
        [
            value / 1000
            for row in rows
            for value in (row["time_us"]["max"], row.get("bound_us") or 0)
            if value > 0
        ]
    )
    return (
        axis(
            "size of the data",
            type="log",
            tickvals=shown,
            ticktext=[format_size(size, 3) for size in shown],
        ),
        axis("time (ms)", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]),
    )


def _ticks(values: list[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten that span `values`, all above zero."""
    low, high = (
        math.floor(math.log10(min(values, default=1))),
        math.ceil(math.log10(max(values, default=1))),
    )
    return [factor * 10.0**exponent for exponent in range(low, high + 1) for factor in (1, 2, 5)]


def _size_ticks(least: int, most: int) -> list[int]:
    """At most eight powers of two that span the sizes; the size itself if there is one."""
    if least == most:
        return [least]
    low, high = round(math.log2(least)), round(math.log2(most))
    return [2**exponent for exponent in range(low, high + 1, 1 + (high - low) // 8)]


def operation_key(row: dict[str, Any]) -> OperationKey:
    """By which rows belong to one line."""
    return row["op"], row["ranks"], row["dtype"], row.get("algorithm", "gloo")


def operation_name(key: OperationKey, keys: list[OperationKey]) -> str:
    """The operation, its algorithm if that is not gloo's, and group size and type where several
    rows share it.
    """
    op, ranks, dtype, algorithm = key
    name = op if algorithm == "gloo" else f"{algorithm} {op}"
    alone = sum(other[0] == op for other in keys) == 1
    return escape(name if alone else f"{name}, {ranks} ranks, {dtype}")


def _operation(rows: list[dict[str, Any]], name: str, colour: str) -> list[Trace]:
    sizes = [row["bytes"] for row in rows]
    medians = np.array([row["time_us"]["median"] for row in rows]) / 1000
    lows = medians - np.array([row["time_us"]["min"] for row in rows]) / 1000
    highs = np.array([row["time_us"]["max"] for row in rows]) / 1000 - medians
    texts = [format_size(size, 3) for size in sizes]
    hover = "%{text}: %{y:.4g} ms<extra>" + name + "</extra>"
    measured = go.Scatter(
        x=sizes,
        y=medians,
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        error_y={"type": "data", "array": highs, "arrayminus": lows, "width": 3, "thickness": 1},
        text=texts,
        hovertemplate=hover,
    )
    known = [(row["bytes"], row["bound_us"] / 1000) for row in rows if row.get("bound_us")]
    bound = go.Scatter(
        x=[size for size, _ in known],
        y=[bound for _, bound in known],
        name=f"{name}, bound",
        legendgroup=name,
        mode="lines",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        text=texts,
        hovertemplate="%{text}: %{y:.4g} ms<extra>" + name + ", bound</extra>",
    )
    return [measured, bound]


def loss_figure(runs: dict[str, pl.DataFrame], changed: History | None = None) -> go.Figure | None:
    """Mean loss over the ranks against time since training began, a curve for each run that has two
    steps with one.

    None without such a run. `changed` is the network of a single run, whose changes are marked.
    """
    traces = []
    for (name, steps), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
        curve = _loss_curve(steps)
        if curve.height >= 2:
            traces.append(
                go.Scatter(
                    x=curve["seconds"].to_list(),
                    y=curve["loss"].to_list(),
                    mode="lines",
                    name=escape(name),
                    line={"color": colour, "width": 2},
                    hovertemplate="%{x:.4g} s: %{y:.4g}",
                )
            )
    if not traces:
        return None
    begin = min(min(steps["start_ns"], default=0) for steps in runs.values())
    lines = [] if changed is None else marks(changed, begin)
    x, y = axis("time (s, run's clock)", rangemode="tozero"), axis("loss (nats per token)")
    return drawing(traces, 380, x, y, shapes=lines)


def _loss_curve(steps: pl.DataFrame) -> pl.DataFrame:
    """Seconds since training began, and the loss, of each step."""
    since = (pl.col("end_ns").max() - steps["start_ns"].min()) / 1e9
    return (
        steps.group_by("step")
        .agg(seconds=since, loss=pl.col("loss").mean())
        .drop_nulls()
        .sort("step")
    )


def axis(title: str, **settings: Any) -> Axis:
    """An axis in the look of all figures."""
    return {
        "title": {"text": title, "standoff": 10},
        "gridcolor": "#8884",
        "zeroline": False,
        **settings,
    }


def drawing(traces: Sequence[Trace], height: int, x: Axis, y: Axis, **layout: Any) -> go.Figure:
    """A figure in the look of all, `height` px high.

    It is made in one step: plotly 6 takes 14 ms for each change to one that exists.
    """
    legend = {
        "orientation": "h",
        "yanchor": "bottom",
        "y": 1.02,
        "x": 0,
        **layout.pop("legend", {}),
    }
    return go.Figure(
        traces,
        {
            "template": "none",
            "height": height,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "autosize": True,
            "margin": {"l": 60, "r": 10, "t": 36, "b": 50},
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "legend": legend,
            "xaxis": x,
            "yaxis": {"automargin": True, **y},
            **layout,
        },
    )


def marks(history: History, origin_ns: int) -> list[dict[str, Any]]:
    """Lines across a figure over time where the network changed; none if there are too many to be
    told apart.
    """
    times = [(time - origin_ns) / 1e9 for time in history.times_ns]
    line = {"width": 1, "dash": "dot", "color": "#d1495b"}
    shown = times if len(times) <= MOST_MARKS else []
    return [
        {"type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}
        for x in shown
    ]


def colour_bar(what: str) -> dict[str, Any]:
    """The legend of a heat map whose values are per cent of something."""
    return {
        "title": {"text": what, "side": "top"},
        "ticksuffix": " %",
        "thickness": 12,
        "outlinewidth": 0,
    }
