"""Figures of a sweep: lines and heat maps of columns of its tables, with the bound of physics drawn
in.

The bound is the least that the topology allows (`testbed.analysis.lower_bounds`), or of training
the modelled computation alone. Points that agree in all that a figure shows are summed up by their
median; bars reach from the least to the largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from testbed.core.errors import InputError
from testbed.report.figures.common import COLOURS, SHADES
from testbed.spec.base import suggest
from testbed.sweep.results import SUFFIXES

LOG_SPAN = 20  # an axis whose largest value is so many times its least is logarithmic
PANEL_WIDTH, HEIGHT, MOST_ACROSS = 520, 420, 3
GRAY = "#7d8791"


@dataclass(frozen=True)
class Measured:
    """A column that is measured: how it is called, what it is multiplied by for people, the column
    of its bound.
    """

    label: str
    factor: float = 1.0
    bound: str | None = None


MEASURED = {
    "time_us": Measured("time (ms)", 1e-3, "bound_us"),
    "max_us": Measured("longest time (ms)", 1e-3, "bound_us"),
    "bound_us": Measured("least possible time (ms)", 1e-3),
    "efficiency": Measured("bound / time (%)", 100.0),
    "algbw_gbytes": Measured("algbw (GB/s)", 1.0, "algbw_bound_gbytes"),
    "busbw_gbytes": Measured("busbw (GB/s)", 1.0, "busbw_bound_gbytes"),
    "step_ms": Measured("step (ms)", 1.0, "compute_ms"),
    "utilisation": Measured("computing / time (%)", 100.0),
    "tokens_per_s": Measured("tokens/s"),
    "wan_bytes_per_step": Measured("WAN per step (MiB)", 2**-20),
    "wan_bytes": Measured("WAN (MiB)", 2**-20),
    "wan_drops": Measured("packets dropped by WAN queues"),
    "final_loss": Measured("final loss (nats per token)"),
    "training_s": Measured("time of training (s)"),
    "time_to_loss_s": Measured("time to the loss (s)", 1.0, "compute_to_loss_s"),
    "rtt_ms": Measured("RTT (ms)"),
    "bytes": Measured("size (B)"),
}
PREFERRED = ("time_to_loss_s", "step_ms", "time_us", "wan_drops")


@dataclass(frozen=True)
class Plot:
    """What a figure shows: columns of a table."""

    x: str
    y: str
    series: str | None = None
    facet: str | None = None
    heat: bool = False
    title: str = ""

    @property
    def columns(self) -> list[str]:
        """All of them."""
        return [name for name in (self.x, self.y, self.series, self.facet) if name is not None]

    @property
    def heading(self) -> str:
        """`title`, or what it shows."""
        label = MEASURED.get(self.y, Measured(self.y)).label.partition(" (")[0]
        return self.title or f"{label} against {self.x}"


def choose(
    index: Mapping[str, Any],
    points: pl.DataFrame,
    *,
    x: str | None = None,
    y: str | None = None,
    series: str | None = None,
    facet: str | None = None,
    heat: bool = False,
) -> list[Plot]:
    """The figure that was asked for, else those of the experiment, else a good first one."""
    asked = any(name is not None for name in (x, y, series, facet)) or heat
    written = index.get("plots") or []
    if written and not asked:
        return [
            Plot(
                one["x"], one["y"], one["series"], one["facet"], one["kind"] == "heat", one["title"]
            )
            for one in written
        ]
    axes = [
        axis
        for axis in index.get("axes", [])
        if axis in points.columns and points[axis].n_unique() > 1
    ]
    numeric = [axis for axis in axes if _numbers(points, axis) is not None]
    free = [*numeric, *(axis for axis in axes if axis not in numeric)]
    x = x or next(
        (axis for axis in free if axis not in (series, facet)),
        next(iter(index.get("axes", [])), "point"),
    )
    rest = [axis for axis in free if axis not in (x, series, facet)]
    if not asked or heat:
        series = series or (rest.pop(0) if rest else None)
    if not asked:
        facet = facet or (rest.pop(0) if rest else None)
    present = [
        name
        for name in PREFERRED
        if name in points.columns and points[name].null_count() < points.height
    ]
    return [Plot(x, y or (present[0] if present else "wall_seconds"), series, facet, heat)]


def draw(plot: Plot, points: pl.DataFrame, collectives: pl.DataFrame) -> go.Figure | None:
    """The figure; None if no complete point has the values.

    Raises:
        InputError: there is no such column, or y holds no numbers.
    """
    longer = any(name in ("op", "bytes") for name in plot.columns) and not collectives.is_empty()
    table = collectives if longer else points
    for name in plot.columns:
        if name not in table.columns:
            raise InputError(
                f"there is no column {name!r}", remedy=suggest(name, table.columns, "the columns")
            )
    if not table[plot.y].dtype.is_numeric():
        raise InputError(
            f"the column {plot.y!r} holds no numbers",
            remedy=f"choose one such as {', '.join(PREFERRED)}",
        )
    table = table.filter(
        (pl.col("state") == "completed")
        & pl.col(plot.y).is_not_null()
        & pl.col(plot.x).is_not_null()
    )
    if table.is_empty():
        return None
    facets = _values(table, plot.facet)
    across = min(len(facets), MOST_ACROSS)
    down = math.ceil(len(facets) / across)
    titles = [f"{plot.facet}: {escape(str(value))}" if plot.facet else "" for value in facets]
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=titles,
        shared_yaxes="all",
        horizontal_spacing=0.04,
        vertical_spacing=0.24 / down,
    )
    for i, value in enumerate(facets):
        place = {"row": i // across + 1, "col": i % across + 1}
        mine = table if plot.facet is None else table.filter(pl.col(plot.facet) == value)
        _add_heat(figure, mine, plot, table, place) if plot.heat else _add_lines(
            figure, mine, plot, table, place
        )
    _style(figure, down)
    return figure


def _add_lines(
    figure: go.Figure, mine: pl.DataFrame, plot: Plot, table: pl.DataFrame, place: dict[str, int]
) -> None:
    measured = MEASURED.get(plot.y, Measured(plot.y))
    names = _values(table, plot.series)
    key = _numbers(table, plot.x)
    all_x = [] if key is None else table[key].to_list()
    first = place == {"row": 1, "col": 1}
    bounds = []
    for i, name in enumerate(names):
        part = _summed(
            mine if plot.series is None else mine.filter(pl.col(plot.series) == name),
            plot,
            measured,
        )
        x = _placed(part["x"].to_list(), all_x)
        colour, label = (
            COLOURS[i % len(COLOURS)],
            escape(str(name)) if plot.series else measured.label,
        )
        spread = {
            "type": "data",
            "array": (part["high"] - part["y"]).to_list(),
            "thickness": 1,
            "width": 3,
            "arrayminus": (part["y"] - part["low"]).to_list(),
        }
        varies = bool((part["high"] > part["low"]).any())
        figure.add_scatter(
            x=x,
            y=part["y"].to_list(),
            name=label,
            legendgroup=label,
            showlegend=first,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            text=part["text"].to_list(),
            error_y=spread if varies else None,
            hovertemplate="%{text}: %{y:.4g}<extra>" + label + "</extra>",
            **place,
        )
        if "bound" in part.columns and part["bound"].null_count() < part.height:
            bounds.append((label, colour, x, part))
    same = (
        len({tuple(map(_told, part["bound"].to_list())) for *_, part in bounds}) == 1
        and len(bounds) > 1
    )
    for label, colour, x, part in bounds[:1] if same else bounds:
        name = "bound" if same else f"{label}, bound"
        figure.add_scatter(
            x=x,
            y=part["bound"].to_list(),
            name=name,
            legendgroup=name if same else label,
            showlegend=first,
            mode="lines",
            line={"color": GRAY if same else colour, "width": 1.5, "dash": "dash"},
            text=part["text"].to_list(),
            hovertemplate="%{text}: %{y:.4g}<extra>" + name + "</extra>",
            **place,
        )
    _style_x(figure, table, plot.x, place)
    names = [name for name in (plot.y, measured.bound) if name in table.columns]
    values = [
        value * measured.factor for name in names for value in table[name].drop_nulls().to_list()
    ]
    figure.update_yaxes(**_scale(values), **place)
    if place["col"] == 1:
        figure.update_yaxes(title=measured.label, **place)


def _add_heat(
    figure: go.Figure, mine: pl.DataFrame, plot: Plot, table: pl.DataFrame, place: dict[str, int]
) -> None:
    """Cells say the value and, below it, how much of it the bound is."""
    measured = MEASURED.get(plot.y, Measured(plot.y))
    across, down = _values(table, plot.x), _values(table, plot.series)
    z, texts = [], []
    for name in down:
        part = mine if plot.series is None else mine.filter(pl.col(plot.series) == name)
        cells = {row["text"]: row for row in _summed(part, plot, measured).iter_rows(named=True)}
        z.append([cells[str(value)]["y"] if str(value) in cells else None for value in across])
        texts.append([_cell(cells.get(str(value))) for value in across])
    shown = [value * measured.factor for value in table[plot.y].to_list()]
    log = _is_log(shown)
    colours = (
        [[None if value is None else math.log10(value) for value in row] for row in z] if log else z
    )
    low, high = (
        (math.log10(min(shown)), math.log10(max(shown))) if log else (min(shown), max(shown))
    )
    figure.add_heatmap(
        z=colours,
        x=[str(value) for value in across],
        y=[str(value) for value in down],
        text=texts,
        zmin=low,
        zmax=high,
        texttemplate="%{text}",
        colorscale=SHADES,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{x}, %{y}<br>%{text}<extra></extra>",
        **place,
    )
    figure.update_xaxes(title=plot.x, type="category", showgrid=False, **place)
    series = plot.series if place["col"] == 1 else ""
    figure.update_yaxes(title=series, type="category", showgrid=False, **place)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    text = f"{row['y']:.3g}"
    bound = row.get("bound")
    return (
        f"{text}<br>{100 * min(bound, row['y']) / max(bound, row['y']):.0f} %"
        if bound and row["y"]
        else text
    )


def _summed(table: pl.DataFrame, plot: Plot, measured: Measured) -> pl.DataFrame:
    """Columns x (a number where there is one), text, y, low, high, and bound where there is one;
    sorted by x.
    """
    x = _numbers(table, plot.x)
    scaled = pl.col(plot.y) * measured.factor
    columns = [scaled.median().alias("y"), scaled.min().alias("low"), scaled.max().alias("high")]
    if measured.bound is not None and measured.bound in table.columns:
        columns.append((pl.col(measured.bound) * measured.factor).median().alias("bound"))
    table = table.with_columns(text=pl.col(plot.x).cast(pl.String), x=pl.col(x or plot.x))
    return (
        table.group_by("x", "text", maintain_order=True).agg(columns).sort("x")
        if x
        else (table.group_by("x", "text", maintain_order=True).agg(columns))
    )


def _numbers(table: pl.DataFrame, name: str) -> str | None:
    """The column with the numbers of `name`: itself, or that in base units; None if it is text."""
    if table[name].dtype.is_numeric():
        return name
    units = [name + suffix for suffix in SUFFIXES.values() if name + suffix in table.columns]
    return units[0] if units and table[units[0]].null_count() == table[name].null_count() else None


def _values(table: pl.DataFrame, name: str | None) -> list[Any]:
    """The values of a column: numbers and quantities by size, others as they first come."""
    if name is None:
        return [None]
    key = _numbers(table, name)
    ordered = table if key is None else table.sort(key)
    return [
        value for value in ordered[name].unique(maintain_order=True).to_list() if value is not None
    ]


def _style_x(figure: go.Figure, table: pl.DataFrame, name: str, place: dict[str, int]) -> None:
    key = _numbers(table, name)
    if key is None:
        figure.update_xaxes(title=name, type="category", **place)
        return
    texts = (
        table.select(pl.col(key).alias("x"), pl.col(name).cast(pl.String).alias("text"))
        .unique()
        .sort("x")
    )
    places = _placed(texts["x"].to_list(), texts["x"].to_list())
    step = 1 + texts.height // 10
    figure.update_xaxes(
        title=MEASURED.get(name, Measured(name)).label,
        type="log" if _is_log(places) else "linear",
        tickvals=places[::step],
        ticktext=texts["text"].to_list()[::step],
        minor_ticks="",
        **place,
    )


def _placed(values: Sequence[Any], among: Sequence[float]) -> list[Any]:
    """Where `values` go on an axis with the numbers `among`; zero a decade below the rest, if that
    needs a log one.
    """
    others = [value for value in among if value > 0]
    if not others or min(among) != 0 or not _is_log(others):
        return list(values)
    return [value or min(others) / 10 for value in values]


def _told(value: float | None) -> str:
    """As much of a value as a figure shows."""
    return f"{value:.4g}" if value is not None else ""


def _is_log(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= LOG_SPAN


def _scale(values: Sequence[float]) -> dict[str, Any]:
    if not _is_log(values):
        return {"type": "linear", "rangemode": "tozero"}
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    ticks = [factor * 10.0**exponent for exponent in range(low, high + 1) for factor in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _style(figure: go.Figure, down: int) -> None:
    figure.update_layout(
        template="none",
        height=HEIGHT * down,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        autosize=True,
        margin={"l": 64, "r": 10, "t": 60, "b": 56},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.08, "x": 0},
    )
    figure.update_xaxes(gridcolor="#8884", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor="#8884", zeroline=False, automargin=True)
