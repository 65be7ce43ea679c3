"""The figure of rank activity over time, whose size does not grow with the length of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from testbed.analysis.activity import compute_spans, start_waits, step_waits
from testbed.analysis.network_history import History
from testbed.plan.model import Plan
from testbed.report.figures.common import (
    COLOURS,
    RUN_CLOCK,
    Trace,
    axis,
    change_marks,
    drawing,
)

MOST_BINS = 800  # bins of time
LEAST_BINS = 200
MOST_CELLS = 40_000  # bins of all ranks together, unless `LEAST_BINS` requires more
SEEN = 0.1  # least share of a bin that an activity must fill to be shown
COMPUTES = "computation"
BOTH = "computation and communication"
WAITS = "waiting"
IDLE = "idle"
FIXED_COLOURS = {
    COMPUTES: "#2f7ed8",
    BOTH: "#1a9c6b",
    WAITS: "#9aa5b0",
    IDLE: "rgba(125,135,145,0.12)",
}
TOO_PALE = "#a98600"
OPERATION_COLOURS = [
    colour for colour in COLOURS if colour not in FIXED_COLOURS.values() and colour != TOO_PALE
]
Shares = npt.NDArray[np.float64]
Spans = Mapping[str, pl.DataFrame]  # by activity: columns rank, start_ns, end_ns (integers)


@dataclass(frozen=True)
class TimeBins:
    """Consecutive spans of time of equal length.

    `edges` (float64, shape (bins + 1,)) are the start of each bin and the end of the last bin, in
    Unix ns on the run's clock.
    """

    edges: Shares

    @classmethod
    def between(cls, begin_ns: int, end_ns: int, number: int) -> TimeBins:
        """Divide a span of time into bins of at least 1 ns each.

        Args:
            begin_ns: start of the span, Unix ns.
            end_ns: end of the span, Unix ns.
            number: number of bins; a span shorter than `number` ns is extended.
        """
        end_ns = max(end_ns, begin_ns + number)
        return cls(np.linspace(begin_ns, end_ns, number + 1))

    def shares(self, spans: pl.DataFrame) -> Shares:
        """Return the share of each bin that spans cover.

        Args:
            spans: columns start_ns and end_ns (integers).

        Returns:
            Shares from 0 to 1, shape (bins,).
        """
        starts = np.sort(spans["start_ns"].to_numpy())
        ends = np.sort(spans["end_ns"].to_numpy())

        covered_ns = self._elapsed_since(starts) - self._elapsed_since(ends)
        share = np.diff(covered_ns) / np.diff(self.edges)

        return np.asarray(np.clip(share, 0, 1))

    def _elapsed_since(self, times: npt.NDArray[np.int64]) -> Shares:
        """Return the total time from all earlier `times` (shape (n,), ascending) to each edge."""
        offsets = times - self.edges[0]
        edge_offsets = self.edges - self.edges[0]

        before = np.searchsorted(offsets, edge_offsets, side="right")
        sums = np.concatenate([[0.0], np.cumsum(offsets)])
        return np.asarray(before * edge_offsets - sums[before])


@dataclass(frozen=True)
class RankStates:
    """The main activity of each rank in each bin.

    Attributes:
        bins: the bins of time.
        names: names of the activities, idle last.
        numbers: int16, shape (ranks, bins): indices in `names`.
    """

    bins: TimeBins
    names: list[str]
    numbers: npt.NDArray[np.int16]


def rank_figure(
    ops: pl.DataFrame,
    steps: pl.DataFrame | None,
    plan: Plan,
    origin_ns: int,
    history: History | None = None,
    most_bins: int = MOST_BINS,
) -> go.Figure | None:
    """Draw a row per rank, coloured by the rank's main activity at each time.

    Args:
        ops: ops.parquet.
        steps: train.parquet, or None if the run did not train.
        plan: the run's plan.
        origin_ns: Unix time in ns at which the figure's time begins.
        history: the run's network over time; changes are marked.
        most_bins: the most bins of time.

    Returns:
        The figure, or None without operations and steps.
    """
    states = rank_states(ops, steps, len(plan.workers.ranks), most_bins)
    if states is None:
        return None

    rows = [f"{plan.rank_name(rank.rank)} ({escape(rank.host)})" for rank in plan.workers.ranks]
    colours = _colours(states.names)

    traces = [_heat_map(states, rows, colours, origin_ns)]
    traces += _legend(states, colours)

    marks: list[dict[str, Any]] = []
    if history is not None:
        marks = change_marks(history, origin_ns)

    rank_axis = axis(
        "rank (host)",
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 11},
        type="category",
    )

    return drawing(
        traces,
        150 + 20 * max(len(rows), 4),
        axis(RUN_CLOCK, showgrid=False),
        rank_axis,
        shapes=marks,
    )


def rank_states(
    ops: pl.DataFrame, steps: pl.DataFrame | None, ranks: int, most_bins: int = MOST_BINS
) -> RankStates | None:
    """Return the main activity of each rank in each bin, or None without operations and steps.

    Args:
        ops: ops.parquet.
        steps: train.parquet, or None if the run did not train.
        ranks: number of ranks.
        most_bins: the most bins of time.
    """
    begins = []
    ends = []

    for table in (ops, steps):
        if table is not None and not table.is_empty():
            begins.append(min(table["start_ns"]))
            ends.append(max(table["end_ns"]))

    if not begins:
        return None

    number = min(most_bins, MOST_CELLS // ranks)
    bins = TimeBins.between(min(begins), max(ends), max(LEAST_BINS, number))

    spans = _spans(ops, steps, ranks)
    operations = [name for name in spans if name not in FIXED_COLOURS]

    names = [COMPUTES, BOTH, WAITS, *operations, IDLE]
    rows = [_states_of_rank(bins, spans, rank, names) for rank in range(ranks)]

    return RankStates(bins, names, np.array(rows, dtype=np.int16))


def _spans(ops: pl.DataFrame, steps: pl.DataFrame | None, ranks: int) -> Spans:
    """Return the spans of each activity, operations by op (arguments as in `rank_states`)."""
    spans: dict[str, pl.DataFrame] = {}
    if steps is None or steps.is_empty():
        spans[WAITS] = start_waits(ops, ranks)
    else:
        spans[COMPUTES] = compute_spans(steps)
        spans[WAITS] = step_waits(steps)

    for (op,), rows in ops.group_by("op", maintain_order=True):
        spans[str(op)] = rows

    return spans


def _states_of_rank(
    bins: TimeBins, spans: Spans, rank: int, names: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Return for each bin the index in `names` of the main activity of a rank, shape (bins,)."""
    nothing = np.zeros(len(bins.edges) - 1)
    shares = dict.fromkeys(names, nothing)
    communicates = nothing

    for name, table in spans.items():
        of_rank = table.filter(rank=rank)
        shares[name] = bins.shares(of_rank)
        if name not in FIXED_COLOURS:
            communicates = communicates + shares[name]

    if COMPUTES in spans:
        # The waits of a step are all time without computation, including communication.
        shares[WAITS] = np.where(communicates > SEEN, 0, shares[WAITS])
    overlap = np.minimum(shares[COMPUTES], communicates)
    shares[BOTH] = np.where(overlap > 0.5, 2.0, 0.0)

    active = np.array([shares[name] for name in names if name != IDLE])
    largest_share = active.max(axis=0)
    main_number = active.argmax(axis=0)
    idle_number = len(names) - 1
    return np.where(largest_share >= SEEN, main_number, idle_number)


def _colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each activity."""
    free = cycle(OPERATION_COLOURS)
    return [FIXED_COLOURS.get(name) or next(free) for name in names]


def _heat_map(
    states: RankStates, rows: Sequence[str], colours: Sequence[str], origin_ns: int
) -> Trace:
    texts = np.array([escape(name) for name in states.names], dtype=object)
    return go.Heatmap(
        z=states.numbers,
        x=np.round((states.bins.edges - origin_ns) / 1e9, 6),
        y=rows,
        ygap=1,
        showscale=False,
        zmin=-0.5,
        zmax=len(states.names) - 0.5,
        colorscale=_scale_without_transitions(colours),
        text=texts[states.numbers].tolist(),
        hovertemplate="rank %{y}<br>%{x:.3f} s: %{text}<extra></extra>",
    )


def _legend(states: RankStates, colours: Sequence[str]) -> list[Trace]:
    """Return empty traces that add a legend entry for each visible activity."""
    seen = set(np.unique(states.numbers).tolist())
    traces = []

    for number, name in enumerate(states.names):
        if number not in seen or name == IDLE:
            continue
        trace = go.Scatter(
            x=[None],
            y=[None],
            name=escape(name),
            mode="markers",
            marker={"symbol": "square", "size": 11, "color": colours[number]},
            hoverinfo="skip",
        )
        traces.append(trace)
    return traces


def _scale_without_transitions(colours: Sequence[str]) -> list[list[object]]:
    """Return a plotly colour scale in which each colour covers a range of equal length."""
    scale: list[list[object]] = []
    for number, colour in enumerate(colours):
        scale.append([number / len(colours), colour])
        scale.append([(number + 1) / len(colours), colour])

    return scale
