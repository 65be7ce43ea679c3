"""The HTML page that compares runs and works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from html import escape
from itertools import cycle

import plotly.graph_objects as go

from testbed.analysis.verdict import verdict
from testbed.report import compare
from testbed.report.compare import Document
from testbed.report.figures.common import (
    COLOURS,
    OperationKey,
    Trace,
    axis,
    drawing,
    faithful_markers,
    log_axes,
    loss_figure,
    operation_keys,
    operation_name,
    sized_rows,
    unfaithful_entry,
)
from testbed.report.grid import Grid
from testbed.report.html import Figure, figure, render
from testbed.report.load import Content
from testbed.runfolder.status import Status
from testbed.runfolder.summary import CollectiveRow, WanRow

DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")
LATENCY = (
    "Median time of each operation against how many bytes it moves, both on logarithmic scales: a "
    "colour for each run, a kind of line for each operation."
)
LOSS = (
    "How well the model predicts the text (lower is better) against each run's own clock, since "
    "its training began."
)
USED = "Share of its rate that each direction of a WAN link carried on average."


@dataclass(frozen=True)
class Side:
    """A run of the comparison: its name on the page, its folder's content, and its plan.json."""

    name: str
    content: Content
    plan: Document

    @property
    def is_unfaithful(self) -> bool:
        """Whether the run is known not to be faithful."""
        return self.content.status is not None and self.content.status.faithful is False


def compare_page(sides: Sequence[Side]) -> bytes:
    """Return the HTML page for two or more runs, in UTF-8."""
    names = [side.name for side in sides]
    differences = compare.plan_differences([side.plan for side in sides])
    problems = []
    for side in sides:
        problems += [f"{side.name}: {problem}" for problem in side.content.problems]

    unfaithful = []
    for side in sides:
        if side.is_unfaithful:
            unfaithful.append(f"{side.name}: {compare.faithful_text(side.content.status)}")

    return render(
        "report/compare.html.j2",
        names=names,
        unfaithful=unfaithful,
        verdicts={side.name: _verdict(side.content) for side in sides},
        plans=compare.plan_grid(differences, names),
        grids=_grids(sides, names),
        figures=_figures(sides),
        problems=problems,
    )


def _grids(sides: Sequence[Side], names: Sequence[str]) -> dict[str, Grid]:
    """Return the non-empty tables of measured figures."""
    summaries = [side.content.summary for side in sides]
    sections = [
        ("jobs", "Jobs", compare.jobs(summaries)),
        ("training", "Training", compare.trainings(summaries)),
        ("operations", "Collectives", compare.operations(summaries)),
        ("links", "WAN links", compare.links(summaries)),
    ]
    grids = {}
    for key, title, rows in sections:
        if rows:
            grids[key] = compare.measured_grid(
                rows, names, title=title, statuses=[side.content.status for side in sides]
            )
    return grids


def _verdict(content: Content) -> str:
    return f"{verdict(content.status, content.summary)} ({_timing(content.status)})"


def _timing(status: Status | None) -> str:
    if status is None or status.faithful is None:
        return "timing not judged"
    if status.faithful:
        return "faithful timing"
    return "unfaithful timing"


def _figures(sides: Sequence[Side]) -> dict[str, Figure]:
    drawings = draw_comparison(sides)
    return {
        **figure("loss", "Loss against time", LOSS, drawings["loss"]),
        **figure("latency", "Time against size", LATENCY, drawings["latency"]),
        **figure("use", "Use of the WAN", USED, drawings["use"]),
    }


def draw_comparison(sides: Sequence[Side]) -> dict[str, go.Figure | None]:
    """Return the figures of loss, latency and link use; None where there is nothing to draw."""
    names = compare.marked_names(
        [side.name for side in sides], [side.content.status for side in sides]
    )
    trained = {}
    collectives = {}
    wan = {}
    unfaithful = set()
    for side, name in zip(sides, names, strict=True):
        if side.content.train is not None:
            trained[name] = side.content.train
        collectives[name] = side.content.summary.collectives
        wan[name] = side.content.summary.wan
        if side.is_unfaithful:
            unfaithful.add(name)
    return {
        "loss": loss_figure(trained),
        "latency": _latency_figure(collectives, unfaithful),
        "use": _use_figure(wan),
    }


def _latency_figure(
    runs: Mapping[str, Sequence[CollectiveRow]], unfaithful: Set[str]
) -> go.Figure | None:
    """Return median time against size for each operation and run, or None without sizes.

    Args:
        runs: the collectives of each run, by name.
        unfaithful: names of the runs that are not faithful, whose markers are hollow.
    """
    all_rows: list[CollectiveRow] = []
    for rows in runs.values():
        all_rows += rows
    all_rows = sized_rows(all_rows)
    if not all_rows:
        return None

    keys = operation_keys(all_rows)
    traces = []
    for (run, rows), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        for key, dash in zip(keys, cycle(DASHES), strict=False):
            line_rows = [row for row in sized_rows(rows) if OperationKey.of(row) == key]
            if line_rows:
                name = f"{escape(run)}: {operation_name(key, keys)}"
                trace = _latency_trace(line_rows, name, colour, dash)
                trace.marker = faithful_markers([run in unfaithful] * len(line_rows))
                traces.append(trace)
    if unfaithful:
        traces.append(unfaithful_entry())
    return drawing(traces, 480, *log_axes(all_rows))


def _latency_trace(rows: Sequence[CollectiveRow], name: str, colour: str, dash: str) -> Trace:
    return go.Scatter(
        x=[row.bytes for row in rows],
        y=[row.time_us.median / 1000 for row in rows],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        hovertemplate="%{x:.4s}B: %{y:.4g} ms",
    )


def _use_figure(runs: Mapping[str, Sequence[WanRow]]) -> go.Figure | None:
    """Return bars of mean utilisation per direction and run, or None if none was measured."""
    traces = []
    bars = 0
    for (run, rows), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        directions = []
        percent = []
        for row in rows:
            if row.mean_utilisation is not None:
                directions.append(escape(f"{row.source} → {row.target}"))
                percent.append(100 * row.mean_utilisation)
        if not directions:
            continue
        trace = go.Bar(
            x=percent,
            y=directions,
            name=escape(run),
            orientation="h",
            marker={"color": colour},
            hovertemplate="%{y}: %{x:.3g} %",
        )
        traces.append(trace)
        bars += len(directions)

    if not traces:
        return None
    return drawing(
        traces,
        150 + 18 * max(bars, 6),
        axis("used (% of rate)", rangemode="tozero"),
        axis("", autorange="reversed", tickfont={"size": 11}),
        barmode="group",
        legend={"traceorder": "normal"},
    )
