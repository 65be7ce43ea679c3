"""What each rank was doing over time, as a figure of a fixed size, however many operations there
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from testbed.analysis.activity import compute_spans, start_waits, step_waits
from testbed.analysis.network_history import History
from testbed.plan.model import Plan
from testbed.report.figures.common import COLOURS, axis, drawing, marks

MOST_BINS, LEAST_BINS, CELLS = 800, 200, 40_000  # of time; and of time and ranks
SEEN = 0.1  # part of a bin from which on something is shown in it
COMPUTES, BOTH, WAITS, IDLE = "computation", "computation and communication", "waiting", "idle"
FIXED = {COMPUTES: "#2f7ed8", BOTH: "#1a9c6b", WAITS: "#9aa5b0", IDLE: "rgba(125,135,145,0.12)"}
FREE = [colour for colour in COLOURS if colour not in FIXED.values() and colour != "#a98600"]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """Pieces of time of the same length, from the beginning of the first to the end of the last, in
    ns.
    """

    edges: Shares

    def shares(self, spans: pl.DataFrame) -> Shares:
        """The part of each bin that `spans` (start_ns, end_ns) cover; at most 1."""
        starts, ends = np.sort(spans["start_ns"].to_numpy()), np.sort(spans["end_ns"].to_numpy())
        covered = self._passed(starts) - self._passed(ends)
        return np.asarray(np.clip(np.diff(covered) / np.diff(self.edges), 0, 1))

    def _passed(self, times: npt.NDArray[np.int64]) -> Shares:
        """At each edge: the sum over `times` of how long ago each was."""
        offsets = times - self.edges[0]
        before = np.searchsorted(offsets, self.edges - self.edges[0], side="right")
        sums = np.concatenate([[0.0], np.cumsum(offsets)])
        return np.asarray(before * (self.edges - self.edges[0]) - sums[before])


def rank_figure(
    ops: pl.DataFrame,
    steps: pl.DataFrame | None,
    plan: Plan,
    origin_ns: int,
    history: History | None = None,
) -> go.Figure | None:
    """A row per rank, coloured by what it does most at that time. None without operations and
    steps.

    Changes of the network in `history` are marked.
    """
    tables = [table for table in (ops, steps) if table is not None and not table.is_empty()]
    if not tables:
        return None
    begin, end = min(min(t["start_ns"]) for t in tables), max(max(t["end_ns"]) for t in tables)
    number = max(LEAST_BINS, min(MOST_BINS, CELLS // len(plan.workers.ranks)))
    bins = Bins(np.linspace(begin, max(end, begin + number), number + 1))
    spans = _spans(ops, steps, len(plan.workers.ranks))
    names = [COMPUTES, BOTH, WAITS, *(name for name in spans if name not in FIXED), IDLE]
    free = iter(FREE * len(names))
    colours = [FIXED.get(name) or next(free) for name in names]
    z = [_states(bins, spans, rank.rank, names) for rank in plan.workers.ranks]
    rows = [f"{rank.rank} ({escape(rank.host)})" for rank in plan.workers.ranks]
    seen = {int(i) for row in z for i in np.unique(row)}
    traces = [
        go.Heatmap(
            z=np.array(z, dtype=np.int16),
            x=np.round((bins.edges - origin_ns) / 1e9, 6),
            y=rows,
            ygap=1,
            showscale=False,
            zmin=-0.5,
            zmax=len(names) - 0.5,
            colorscale=_steps_of(colours),
            text=[[escape(names[i]) for i in row] for row in z],
            hovertemplate="rank %{y}<br>%{x:.3f} s: %{text}<extra></extra>",
        )
    ]
    for i, name in enumerate(names):
        if i in seen and name != IDLE:
            marker = {"symbol": "square", "size": 11, "color": colours[i]}
            legend = {"x": [None], "y": [None], "mode": "markers", "hoverinfo": "skip"}
            traces.append(go.Scatter(marker=marker, name=escape(name), **legend))
    ranks = axis(
        "rank (host)", autorange="reversed", showgrid=False, tickfont={"size": 11}, type="category"
    )
    lines = [] if history is None else marks(history, origin_ns)
    time = axis("time (s, run's clock)", showgrid=False)
    return drawing(traces, 150 + 20 * max(len(rows), 4), time, ranks, shapes=lines)


def _spans(ops: pl.DataFrame, steps: pl.DataFrame | None, ranks: int) -> dict[str, pl.DataFrame]:
    """Of each kind of activity."""
    found = {str(op): rows for (op,), rows in ops.group_by("op", maintain_order=True)}
    if steps is None or steps.is_empty():
        return {WAITS: start_waits(ops, ranks), **found}
    return {COMPUTES: compute_spans(steps), WAITS: step_waits(steps), **found}


def _states(
    bins: Bins, spans: dict[str, pl.DataFrame], rank: int, names: list[str]
) -> npt.NDArray[np.int64]:
    """For each bin the index in `names` of what fills most of it."""
    shares = {
        name: bins.shares(table.filter(pl.col("rank") == rank)) for name, table in spans.items()
    }
    none = np.zeros(len(bins.edges) - 1)
    operations = np.sum(
        [none, *(share for name, share in shares.items() if name not in FIXED)], axis=0
    )
    both = np.minimum(shares.get(COMPUTES, none), operations)
    shares[BOTH] = np.where(both > 0.5, 2.0, 0.0)
    shares[WAITS] = (
        shares[WAITS] if COMPUTES not in shares else np.where(operations > SEEN, 0, shares[WAITS])
    )
    table = np.array([shares.get(name, none) for name in names[:-1]])
    return np.where(table.max(axis=0) >= SEEN, table.argmax(axis=0), len(names) - 1)


def _steps_of(colours: list[str]) -> list[list[object]]:
    """A colour scale without transitions."""
    size = len(colours)
    return [[edge / size, colour] for i, colour in enumerate(colours) for edge in (i, i + 1)]
