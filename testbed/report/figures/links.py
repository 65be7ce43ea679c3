"""Figures of the WAN: traffic and queue of each direction over time, and totals.

Arrays of samples have shape (samples,), arrays over time have shape (bins,), and their edges have
shape (bins + 1,), in Unix ns on the run's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from testbed.analysis.network_history import History, Pieces
from testbed.core.units import format_rate, format_size
from testbed.plan.model import Direction
from testbed.report.figures.common import (
    COLOURS,
    RUN_CLOCK,
    SHADES,
    USE_COLOURS,
    axis,
    change_marks,
    colour_bar,
    drawing,
)
from testbed.report.tables import site_names
from testbed.runfolder.summary import WanRow

TIME_BINS = 400
MOST_LINES = 6  # directions drawn as separate lines
MOST_LABELLED = 12  # datacenters whose cells have room for text
AT_THE_TIME = "its share at that time"
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DirectionSamples:
    """The samples of one direction of a WAN link, sorted by time.

    Attributes:
        direction: the direction as first built.
        pieces: the states of the direction over time.
        time_ns: int64, shape (samples,), ascending.
        sent_bytes: float64, shape (samples,), cumulative since the link was built.
        queued_bytes: float64, shape (samples,).
    """

    direction: Direction
    pieces: Pieces
    time_ns: npt.NDArray[np.int64]
    sent_bytes: Values
    queued_bytes: Values

    @property
    def is_constant(self) -> bool:
        """Whether the direction stayed as first built."""
        return len(self.pieces) == 1

    def capacity_bits(self, edges: Values) -> Values:
        """Return the bits that the bottleneck could have sent in each bin, shape (bins,)."""
        offsets = edges - edges[0]
        carried = np.zeros(len(edges))

        for begin_ns, end_ns, direction in self.pieces:
            elapsed_ns = np.clip(offsets, begin_ns - edges[0], end_ns - edges[0])
            carried += direction.bottleneck.rate_bps * elapsed_ns

        return np.asarray(np.diff(carried) / 1e9)

    def queue_packets(self, edges: Values) -> Values:
        """Return the queue's capacity in packets at the start of each bin, shape (bins,)."""
        begins = []
        lengths = []

        for begin_ns, _end_ns, direction in self.pieces:
            begins.append(begin_ns)
            lengths.append(direction.bottleneck.queue_packets)

        numbers = np.searchsorted(np.array(begins), edges[:-1], side="right") - 1
        return np.array(lengths, dtype=float)[numbers]


@dataclass(frozen=True)
class SharesOverTime:
    """Per cent of a quantity of each direction over time.

    Attributes:
        names: names of the directions, as HTML.
        wholes: the value that 100 % stands for, as text for each direction.
        seconds: float64, shape (bins + 1,), the edges of the bins.
        percent: float64, shape (directions, bins).
    """

    names: list[str]
    wholes: list[str]
    seconds: Values
    percent: Values


@dataclass(frozen=True)
class DirectionQuantity:
    """A quantity of directions to show over time.

    Attributes:
        title: name of the quantity, such as "used".
        percent: function from samples and edges (shape (bins + 1,)) to per cent (shape (bins,)).
        whole: function from a direction to the value that 100 % stands for, as text.
    """

    title: str
    percent: Callable[[DirectionSamples, Values], Values]
    whole: Callable[[Direction], str]


def utilisation_figure(links: pl.DataFrame, history: History, origin_ns: int) -> go.Figure | None:
    """Draw the used share of each direction's rate over time.

    Args:
        links: links.parquet.
        history: the run's network over time; changes are marked.
        origin_ns: Unix time in ns at which the figure's time begins.

    Returns:
        The figure, or None with fewer than two samples.
    """
    quantity = DirectionQuantity("used", _percent_used, _rate_text)
    return _figure_over_time(links, history, origin_ns, quantity)


def queue_figure(links: pl.DataFrame, history: History, origin_ns: int) -> go.Figure | None:
    """Draw the filled share of each bottleneck's queue over time.

    Args and Returns are the same as in `utilisation_figure`.
    """
    mtu = history.states[0].mtu

    def percent_full(samples: DirectionSamples, edges: Values) -> Values:
        numbers = np.searchsorted(edges, samples.time_ns, side="right") - 1
        numbers = np.clip(numbers, 0, len(edges) - 2)

        most_bytes = np.zeros(len(edges) - 1)
        np.maximum.at(most_bytes, numbers, samples.queued_bytes)

        queue_bytes = samples.queue_packets(edges) * mtu
        return np.asarray(100 * most_bytes / queue_bytes)

    def queue_text(direction: Direction) -> str:
        size = direction.bottleneck.queue_packets * mtu
        milliseconds = size * 8e3 / direction.bottleneck.rate_bps
        return f"{format_size(size, 3)} ({milliseconds:.3g} ms)"

    quantity = DirectionQuantity("full", percent_full, queue_text)
    return _figure_over_time(links, history, origin_ns, quantity)


def _percent_used(samples: DirectionSamples, edges: Values) -> Values:
    sent_bytes = np.interp(edges, samples.time_ns, samples.sent_bytes)
    sent_bits = np.diff(sent_bytes) * 8
    capacity_bits = samples.capacity_bits(edges)
    used = np.zeros(len(sent_bits))  # during a stall
    np.divide(100 * sent_bits, capacity_bits, out=used, where=capacity_bits > 0)

    if samples.is_constant:
        return np.asarray(used)
    # Where a rate falls, bytes of the preceding sample may be counted in the following time.
    return np.minimum(used, 100)


def _rate_text(direction: Direction) -> str:
    return format_rate(direction.bottleneck.rate_bps, 3)


def _figure_over_time(
    links: pl.DataFrame, history: History, origin_ns: int, quantity: DirectionQuantity
) -> go.Figure | None:
    """Draw a quantity of each direction: few directions as lines, many as rows of a heat map."""
    shares = _shares_over_time(links, history, origin_ns, quantity)
    if shares is None:
        return None

    marks = change_marks(history, origin_ns)
    if len(shares.names) <= MOST_LINES:
        return _draw_lines(shares, quantity.title, marks)
    return _draw_rows(shares, quantity.title, marks)


def _shares_over_time(
    links: pl.DataFrame, history: History, origin_ns: int, quantity: DirectionQuantity
) -> SharesOverTime | None:
    """Return a quantity of each direction, in at most `TIME_BINS` bins.

    Arguments are the same as in `utilisation_figure`. The result is None without two samples.
    """
    sampled = list(_sampled_directions(links, history))
    if not sampled:
        return None

    begin_ns = max(origin_ns, min(links["time_ns"]))
    end_ns = max(links["time_ns"])

    times = links.filter(pl.col("time_ns") >= begin_ns)["time_ns"].n_unique()
    bins = min(TIME_BINS, times - 1)

    if bins < 1:
        return None

    edges = np.linspace(begin_ns, end_ns, bins + 1)
    names = []
    wholes = []
    percent = []

    for samples in sampled:
        direction = samples.direction
        names.append(escape(f"{direction.source} → {direction.target}"))
        percent.append(quantity.percent(samples, edges))
        if samples.is_constant:
            wholes.append(quantity.whole(direction))
        else:
            wholes.append(AT_THE_TIME)

    return SharesOverTime(
        names=_numbered(names),
        wholes=wholes,
        seconds=np.round((edges - origin_ns) / 1e9, 6),
        percent=np.round(percent, 2),
    )


def _sampled_directions(links: pl.DataFrame, history: History) -> Iterator[DirectionSamples]:
    """Yield the samples of each direction of the network that was sampled.

    `links` is links.parquet (`testbed.runfolder.schemas.LINKS`).
    """
    for link in history.states[0].wan:
        for direction in link.directions:
            is_direction = (pl.col("link") == link.key) & (pl.col("source") == direction.source)

            rows = links.filter(is_direction).sort("time_ns")
            if rows.is_empty():
                continue
            yield DirectionSamples(
                direction=direction,
                pieces=history.pieces(link.key, direction.source),
                time_ns=rows["time_ns"].to_numpy(),
                sent_bytes=rows["bytes"].to_numpy().astype(float),
                queued_bytes=rows["backlog_bytes"].to_numpy().astype(float),
            )


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, with a number appended where a name repeats, as for parallel links."""
    numbered = []
    for position, name in enumerate(names):
        if names.count(name) == 1:
            numbered.append(name)
            continue
        number = names[: position + 1].count(name)
        numbered.append(f"{name} ({number})")
    return numbered


def _draw_lines(shares: SharesOverTime, title: str, marks: Sequence[dict[str, Any]]) -> go.Figure:
    """Return a figure with a line per direction; each value holds from one edge to the next."""
    traces = []
    for number, name in enumerate(shares.names):
        percent = shares.percent[number]
        whole = shares.wholes[number]
        trace = go.Scatter(
            x=shares.seconds,
            y=np.append(percent, percent[-1]),
            name=name,
            mode="lines",
            opacity=0.85,
            line={"shape": "hv", "width": 1.5, "color": COLOURS[number]},
            hovertemplate=f"{name}<br>%{{x:.3f}} s: %{{y:.1f}} % of {whole}<extra></extra>",
        )
        traces.append(trace)
    return drawing(
        traces,
        300,
        axis(RUN_CLOCK, rangemode="tozero"),
        axis(f"{title} (%)", rangemode="tozero", minallowed=0),
        shapes=marks,
    )


def _draw_rows(shares: SharesOverTime, title: str, marks: Sequence[dict[str, Any]]) -> go.Figure:
    """Return a heat map with a row per direction."""
    bins = len(shares.seconds) - 1
    heat = go.Heatmap(
        z=shares.percent,
        x=shares.seconds,
        y=shares.names,
        zmin=0,
        zmax=100,
        ygap=2,
        colorscale=USE_COLOURS,
        colorbar=colour_bar(title),
        customdata=[[whole] * bins for whole in shares.wholes],
        hovertemplate="%{y}<br>%{x:.3f} s: %{z:.1f} % of %{customdata}<extra></extra>",
    )
    return drawing(
        [heat],
        140 + 26 * len(shares.names),
        axis(RUN_CLOCK, showgrid=False),
        axis("", autorange="reversed", showgrid=False, tickfont={"size": 11}),
        shapes=marks,
    )


def matrix_figure(rows: Sequence[WanRow]) -> go.Figure | None:
    """Draw the mean use of the links from each datacenter (row) to each other one (column).

    Returns:
        The figure, or None if no link was measured.
    """
    names = site_names(rows)
    size = len(names)
    total_bytes = np.zeros((size, size))

    rate_bps = np.zeros((size, size))
    used_bps = np.zeros((size, size))

    for row in rows:
        if row.bytes is None or row.mean_utilisation is None:
            continue

        cell = names.index(row.source), names.index(row.target)
        total_bytes[cell] += row.bytes
        rate_bps[cell] += row.rate_bps
        used_bps[cell] += row.rate_bps * row.mean_utilisation

    measured = rate_bps > 0
    if not measured.any():
        return None

    percent = np.full((size, size), np.nan)
    percent[measured] = 100 * used_bps[measured] / rate_bps[measured]

    return _draw_matrix(names, percent, _matrix_texts(percent, total_bytes))


def _matrix_texts(percent: Values, total_bytes: Values) -> list[list[str]]:
    """Return the cell texts of a matrix (arguments of shape (n, n)); empty where unmeasured."""
    texts = []

    for percent_row, bytes_row in zip(percent, total_bytes, strict=True):
        row = []
        for share, carried in zip(percent_row, bytes_row, strict=True):
            text = "" if np.isnan(share) else f"{format_size(int(carried), 3)}<br>{_percent(share)}"
            row.append(text)
        texts.append(row)
    return texts


def _percent(percent: float) -> str:
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %"


def _draw_matrix(names: Sequence[str], percent: Values, texts: list[list[str]]) -> go.Figure:
    """Return a heat map of per cent (shape (n, n)) with the names of rows and columns."""
    shown_names = [escape(name) for name in names]
    template = "%{text}" if len(names) <= MOST_LABELLED else None
    heat = go.Heatmap(
        z=np.round(percent, 3),
        x=shown_names,
        y=shown_names,
        text=texts,
        texttemplate=template,
        colorscale=SHADES,
        zmin=0,
        zmax=max(1.0, float(np.nanmax(percent))),
        xgap=2,
        ygap=2,
        hoverongaps=False,
        colorbar=colour_bar("used"),
        hovertemplate="%{y} → %{x}: %{text}<extra></extra>",
    )
    shown_rows = min(max(len(names), 2), 16)
    return drawing(
        [heat],
        150 + 46 * shown_rows,
        axis("to", showgrid=False, side="top", automargin=True),
        axis("from", showgrid=False, autorange="reversed"),
    )
