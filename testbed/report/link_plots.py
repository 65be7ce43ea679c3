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

from testbed.plan import Direction, Network
from testbed.report.plots import USE_COLOURS, colour_bar, styled
from testbed.units import format_rate, format_size

TIME_BINS = 400
MOST_LABELLED = 12  # datacenters whose cells have room for text
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What was sampled of a WAN direction, by time."""

    way: Direction
    time_ns: npt.NDArray[np.int64]
    sent: Values  # bytes since the link was built
    queued: Values  # bytes


def utilisation_figure(links: pl.DataFrame, network: Network, origin_ns: int) -> go.Figure | None:
    """Share of the rate in use over time: a row per WAN direction. None without two samples."""

    def shares(samples: Samples, edges: Values) -> Values:
        carried = np.diff(np.interp(edges, samples.time_ns, samples.sent))
        return np.asarray(100 * carried * 8 / samples.way.bottleneck.rate_bps / (np.diff(edges) / 1e9))

    hover = "%{y}<br>%{x:.3f} s: %{z:.1f} % of %{customdata}<extra></extra>"
    return _over_time(
        links, network, origin_ns, shares, "used", lambda way: format_rate(way.bottleneck.rate_bps, 3), hover
    )


def queue_figure(links: pl.DataFrame, network: Network, origin_ns: int) -> go.Figure | None:
    """Part of the bottleneck's queue that is full over time: a row per WAN direction. None without two samples."""

    def fill(samples: Samples, edges: Values) -> Values:
        bins = np.clip(np.searchsorted(edges, samples.time_ns, side="right") - 1, 0, len(edges) - 2)
        most = np.zeros(len(edges) - 1)
        np.maximum.at(most, bins, samples.queued)
        return 100 * most / (samples.way.bottleneck.queue_packets * network.mtu)

    def room(way: Direction) -> str:
        size = way.bottleneck.queue_packets * network.mtu
        return f"{format_size(size, 3)} ({size * 8e3 / way.bottleneck.rate_bps:.3g} ms)"

    hover = "%{y}<br>%{x:.3f} s: %{z:.1f} % of %{customdata}<extra></extra>"
    return _over_time(links, network, origin_ns, fill, "full", room, hover)


def matrix_figure(rows: list[dict[str, Any]]) -> go.Figure | None:
    """Mean use of the links from each datacenter (row) to each other one (column), with their bytes. None without."""
    known = [row for row in rows if row["bytes"] is not None and row["mean_utilisation"] is not None]
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
        [f"{format_size(int(total[i, j]), 3)}<br>{_percent(share[i, j])}" if linked[i, j] else "" for j in range(size)]
        for i in range(size)
    ]
    shown = [escape(str(name)) for name in names]
    drawn = go.Figure(
        go.Heatmap(
            z=np.round(share, 3), x=shown, y=shown, text=texts,
            texttemplate="%{text}" if size <= MOST_LABELLED else None, colorscale=USE_COLOURS,
            zmin=0, zmax=max(1.0, float(np.nanmax(share))), xgap=2, ygap=2, hoverongaps=False,
            colorbar=colour_bar("used"),
            hovertemplate="%{y} → %{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    drawn.update_xaxes(title="to", showgrid=False, side="top", automargin=True)
    drawn.update_yaxes(title="from", showgrid=False, autorange="reversed", automargin=True)
    return styled(drawn, 150 + 46 * max(2, min(size, 16)))


def _percent(share: float) -> str:
    return f"{share:.1f} %" if share >= 0.1 or share == 0 else "< 0.1 %"


def _over_time(
    links: pl.DataFrame, network: Network, origin_ns: int, values: Callable[[Samples, Values], Values], what: str,
    whole: Callable[[Direction], str], hover: str,
) -> go.Figure | None:  # fmt: skip
    """A heat map: a row per WAN direction, with what 100 % is."""
    if links.is_empty():
        return None
    begin, end = max(origin_ns, min(links["time_ns"])), max(links["time_ns"])
    bins = min(TIME_BINS, links.filter(pl.col("time_ns") >= begin)["time_ns"].n_unique() - 1)
    if bins < 1:
        return None
    edges = np.linspace(begin, end, bins + 1)
    sampled = list(_samples(links, network))
    if not sampled:
        return None
    names = [escape(f"{samples.way.source} → {samples.way.target}") for samples in sampled]
    drawn = go.Figure(
        go.Heatmap(
            z=np.round([values(samples, edges) for samples in sampled], 2).astype(np.float32),
            x=np.round((edges - origin_ns) / 1e9, 6), y=_distinct(names), zmin=0, zmax=100, ygap=2,
            colorscale=USE_COLOURS, customdata=[[whole(samples.way)] * (len(edges) - 1) for samples in sampled],
            hovertemplate=hover, colorbar=colour_bar(what),
        )
    )  # fmt: skip
    drawn.update_xaxes(title="time (s, run's clock)", showgrid=False)
    drawn.update_yaxes(autorange="reversed", automargin=True, showgrid=False, tickfont={"size": 11})
    return styled(drawn, 140 + 26 * max(len(names), 3))


def _samples(links: pl.DataFrame, network: Network) -> Iterator[Samples]:
    for link in network.wan:
        for way in link.directions:
            mine = links.filter((pl.col("link") == link.key) & (pl.col("source") == way.source)).sort("time_ns")
            if not mine.is_empty():
                numbers = mine.select("time_ns", "bytes", "backlog_bytes").to_numpy().T
                yield Samples(way, numbers[0], numbers[1].astype(float), numbers[2].astype(float))


def _distinct(names: list[str]) -> list[str]:
    """Parallel links have the same ends: their rows get numbers."""
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]
