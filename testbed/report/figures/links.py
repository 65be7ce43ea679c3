"""Figures of the WAN: how much each direction carries and queues over time, and in total."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    SHADES,
    USE_COLOURS,
    axis,
    colour_bar,
    drawing,
    marks,
)

TIME_BINS = 400
MOST_LINES = 6  # directions that are told apart as lines
MOST_LABELLED = 12  # datacenters whose cells have room for text
AT_THE_TIME = "what it had then"
TIME = "time (s, run's clock)"
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What was sampled of a WAN direction, by time."""

    way: Direction  # as it was built
    pieces: Pieces  # how it was when
    time_ns: npt.NDArray[np.int64]
    sent: Values  # bytes since the link was built
    queued: Values  # bytes

    def capacity_bits(self, edges: Values) -> Values:
        """What the bottleneck could have sent between each two neighbouring times."""
        carried = np.zeros(len(edges))
        for begin, end, way in self.pieces:
            carried += way.bottleneck.rate_bps * np.clip(
                edges - edges[0], begin - edges[0], end - edges[0]
            )
        return np.asarray(np.diff(carried) / 1e9)

    def queue_packets(self, edges: Values) -> Values:
        """The queue's length between each two neighbouring times, as it was at the first of
        both.
        """
        begins = np.array([begin for begin, _, _ in self.pieces])
        sizes = np.array([way.bottleneck.queue_packets for _, _, way in self.pieces], dtype=float)
        return np.asarray(sizes[np.searchsorted(begins, edges[:-1], side="right") - 1])


def utilisation_figure(links: pl.DataFrame, history: History, origin_ns: int) -> go.Figure | None:
    """Share of the rate in use over time: None without two samples."""

    def shares(samples: Samples, edges: Values) -> Values:
        carried = np.diff(np.interp(edges, samples.time_ns, samples.sent))
        used = 100 * carried * 8 / samples.capacity_bits(edges)
        # Where a rate falls, bytes of the sample before may be counted to the time after.
        return np.asarray(used if len(samples.pieces) == 1 else np.minimum(used, 100))

    return _over_time(
        links,
        history,
        origin_ns,
        shares,
        "used",
        lambda way: format_rate(way.bottleneck.rate_bps, 3),
    )


def queue_figure(links: pl.DataFrame, history: History, origin_ns: int) -> go.Figure | None:
    """Part of the bottleneck's queue that is full over time: None without two samples."""

    mtu = history.states[0].mtu

    def fill(samples: Samples, edges: Values) -> Values:
        bins = np.clip(np.searchsorted(edges, samples.time_ns, side="right") - 1, 0, len(edges) - 2)
        most = np.zeros(len(edges) - 1)
        np.maximum.at(most, bins, samples.queued)
        return np.asarray(100 * most / (samples.queue_packets(edges) * mtu))

    def room(way: Direction) -> str:
        size = way.bottleneck.queue_packets * mtu
        return f"{format_size(size, 3)} ({size * 8e3 / way.bottleneck.rate_bps:.3g} ms)"

    return _over_time(links, history, origin_ns, fill, "full", room)


def matrix_figure(rows: list[dict[str, Any]]) -> go.Figure | None:
    """Mean use of the links from each datacenter (row) to each other one (column), with their
    bytes. None without.
    """
    known = [
        row for row in rows if row["bytes"] is not None and row["mean_utilisation"] is not None
    ]
    if not known:
        return None
    names = list(dict.fromkeys(name for row in rows for name in (row["from"], row["to"])))
    size = len(names)
    rates, used, total = (np.zeros((size, size)) for _ in range(3))
    for row in known:
        at = names.index(row["from"]), names.index(row["to"])
        rates[at] += row["rate_bps"]
        used[at] += row["rate_bps"] * row["mean_utilisation"]
        total[at] += row["bytes"]
    linked = rates > 0
    share = np.where(linked, 100 * used / np.where(linked, rates, 1), np.nan)
    texts = [
        [
            f"{format_size(int(total[i, j]), 3)}<br>{_percent(share[i, j])}" if linked[i, j] else ""
            for j in range(size)
        ]
        for i in range(size)
    ]
    shown = [escape(str(name)) for name in names]
    heat = go.Heatmap(
        z=np.round(share, 3),
        x=shown,
        y=shown,
        text=texts,
        texttemplate="%{text}" if size <= MOST_LABELLED else None,
        colorscale=SHADES,
        zmin=0,
        zmax=max(1.0, float(np.nanmax(share))),
        xgap=2,
        ygap=2,
        hoverongaps=False,
        colorbar=colour_bar("used"),
        hovertemplate="%{y} → %{x}: %{text}<extra></extra>",
    )
    to = axis("to", showgrid=False, side="top", automargin=True)
    return drawing(
        [heat],
        150 + 46 * max(2, min(size, 16)),
        to,
        axis("from", showgrid=False, autorange="reversed"),
    )


def _percent(share: float) -> str:
    return f"{share:.1f} %" if share >= 0.1 or share == 0 else "< 0.1 %"


def _over_time(
    links: pl.DataFrame,
    history: History,
    origin_ns: int,
    values: Callable[[Samples, Values], Values],
    what: str,
    whole: Callable[[Direction], str],
) -> go.Figure | None:
    """Per cent of something for each WAN direction: lines for a few of them, else rows of a heat
    map.

    `whole` says what 100 % of a direction are. Lines across are changes of the network.
    """
    sampled = [] if links.is_empty() else list(_samples(links, history))
    begin, end = max(origin_ns, min(links["time_ns"], default=0)), max(links["time_ns"], default=0)
    bins = min(TIME_BINS, links.filter(pl.col("time_ns") >= begin)["time_ns"].n_unique() - 1)
    if bins < 1 or not sampled:
        return None
    edges = np.linspace(begin, end, bins + 1)
    names = _distinct(
        [escape(f"{samples.way.source} → {samples.way.target}") for samples in sampled]
    )
    shares = np.round([values(samples, edges) for samples in sampled], 2)
    seconds = np.round((edges - origin_ns) / 1e9, 6)
    wholes = [
        whole(samples.way) if len(samples.pieces) == 1 else AT_THE_TIME for samples in sampled
    ]
    lines = marks(history, origin_ns)
    if len(names) <= MOST_LINES:
        return _lines(seconds, shares, names, wholes, what, lines)
    heat = go.Heatmap(
        z=shares,
        x=seconds,
        y=names,
        zmin=0,
        zmax=100,
        ygap=2,
        colorscale=USE_COLOURS,
        colorbar=colour_bar(what),
        customdata=[[text] * bins for text in wholes],
        hovertemplate="%{y}<br>%{x:.3f} s: %{z:.1f} % of %{customdata}<extra></extra>",
    )
    directions = axis("", autorange="reversed", showgrid=False, tickfont={"size": 11})
    return drawing(
        [heat], 140 + 26 * len(names), axis(TIME, showgrid=False), directions, shapes=lines
    )


def _lines(
    seconds: Values,
    shares: Values,
    names: list[str],
    wholes: list[str],
    what: str,
    marked: list[dict[str, Any]],
) -> go.Figure:
    """A line for each direction; each value holds from one of `seconds` to the next."""
    traces = [
        go.Scatter(
            x=seconds,
            y=np.append(row, row[-1]),
            name=name,
            mode="lines",
            opacity=0.85,
            line={"shape": "hv", "width": 1.5, "color": colour},
            hovertemplate=f"{name}<br>%{{x:.3f}} s: %{{y:.1f}} % of {whole}<extra></extra>",
        )
        for name, row, whole, colour in zip(names, shares, wholes, COLOURS, strict=False)
    ]
    share = axis(f"{what} (%)", rangemode="tozero", minallowed=0)
    return drawing(traces, 300, axis(TIME, rangemode="tozero"), share, shapes=marked)


def _samples(links: pl.DataFrame, history: History) -> Iterator[Samples]:
    for link in history.states[0].wan:
        for way in link.directions:
            mine = links.filter(
                (pl.col("link") == link.key) & (pl.col("source") == way.source)
            ).sort("time_ns")
            if not mine.is_empty():
                numbers = mine.select("time_ns", "bytes", "backlog_bytes").to_numpy().T
                pieces = history.pieces(link.key, way.source)
                yield Samples(
                    way, pieces, numbers[0], numbers[1].astype(float), numbers[2].astype(float)
                )


def _distinct(names: list[str]) -> list[str]:
    """Parallel links have the same ends: their rows get numbers."""
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
