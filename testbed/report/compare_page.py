"""Runs side by side as one page that works offline."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from testbed.analysis.verdict import verdict
from testbed.report import compare
from testbed.report.figures import common
from testbed.report.figures.common import (
    COLOURS,
    axis,
    drawing,
    log_axes,
    operation_key,
    operation_name,
)
from testbed.report.html import Figure, figure, render
from testbed.report.load import Content

DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")
LATENCY = (
    "Median time of each operation against how many bytes it moves, both on logarithmic scales: a colour for each "
    "run, a kind of line for each operation."
)
LOSS = "How well the model predicts the text (lower is better) against each run's own clock, since its training began."
USED = "Share of its rate that each direction of a WAN link carried on average."


@dataclass(frozen=True)
class Side:
    """A run of the comparison: its name there, what its folder holds, and the content of
    plan.json.
    """

    name: str
    content: Content
    plan: dict[str, Any]


def compare_page(sides: list[Side]) -> bytes:
    """The page, of two runs or more."""
    names = [side.name for side in sides]
    summaries = [side.content.summary for side in sides]
    figures = {
        "training": compare.trainings(summaries),
        "operations": compare.operations(summaries),
        "links": compare.links(summaries),
    }
    titles = {"training": "Training", "operations": "Collectives", "links": "WAN links"}
    grids = {
        key: compare.measured_grid(rows, names, title=titles[key])
        for key, rows in figures.items()
        if rows
    }
    return render(
        "report/compare.html.j2",
        names=names,
        verdicts=_verdicts(sides),
        plans=compare.plan_grid(compare.plan_differences([side.plan for side in sides]), names),
        grids=grids,
        figures=_figures(sides),
        missing=[f"{side.name}: {line}" for side in sides for line in side.content.missing],
    )


def _verdicts(sides: list[Side]) -> dict[str, str]:
    """What each run says."""
    marks = {True: "faithful timing", False: "unfaithful timing"}
    return {
        side.name: f"{verdict(side.content.outcome, side.content.results)} "
        f"({marks.get(side.content.status.get('faithful'), 'timing not judged')})"  # type: ignore[arg-type]
        for side in sides
    }


def _figures(sides: list[Side]) -> dict[str, Figure]:
    trained = {side.name: side.content.train for side in sides if side.content.train is not None}
    found = figure("loss", "Loss against time", LOSS, common.loss_figure(trained))
    rows = {side.name: side.content.summary["collectives"] for side in sides}
    found |= figure("latency", "Time against size", LATENCY, _latencies(rows))
    use = {side.name: side.content.summary["wan"] for side in sides}
    return found | figure("use", "Use of the WAN", USED, _use(use))


def _latencies(runs: dict[str, list[dict[str, Any]]]) -> go.Figure | None:
    """None without sizes."""
    every = sorted(
        (row for rows in runs.values() for row in rows if row["bytes"] > 0),
        key=lambda row: row["bytes"],
    )
    if not every:
        return None
    keys = list(dict.fromkeys(operation_key(row) for row in every))
    traces = []
    for (run, rows), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
        for number, key in enumerate(keys):
            mine = sorted(
                (row for row in rows if row["bytes"] > 0 and operation_key(row) == key), key=_bytes
            )
            if not mine:
                continue
            traces.append(
                go.Scatter(
                    x=[row["bytes"] for row in mine],
                    y=[row["time_us"]["median"] / 1000 for row in mine],
                    name=f"{escape(run)}: {operation_name(key, keys)}",
                    mode="lines+markers",
                    line={"color": colour, "width": 2, "dash": DASHES[number % len(DASHES)]},
                    hovertemplate="%{x:.4s}B: %{y:.4g} ms",
                )
            )
    return drawing(traces, 480, *log_axes(every))


def _bytes(row: dict[str, Any]) -> int:
    return int(row["bytes"])


def _use(runs: dict[str, list[dict[str, Any]]]) -> go.Figure | None:
    """Bars for each direction and run. None without any that was measured."""
    traces = []
    for (run, rows), colour in zip(runs.items(), COLOURS * len(runs), strict=False):
        known = [row for row in rows if row["mean_utilisation"] is not None]
        if known:
            traces.append(
                go.Bar(
                    x=[100 * row["mean_utilisation"] for row in known],
                    name=escape(run),
                    orientation="h",
                    y=[escape(f"{row['from']} → {row['to']}") for row in known],
                    marker={"color": colour},
                    hovertemplate="%{y}: %{x:.3g} %",
                )
            )
    if not traces:
        return None
    bars = sum(len(trace.y) for trace in traces)
    used, ways = (
        axis("used (% of rate)", rangemode="tozero"),
        axis("", autorange="reversed", tickfont={"size": 11}),
    )
    return drawing(
        traces,
        150 + 18 * max(bars, 6),
        used,
        ways,
        barmode="group",
        legend={"traceorder": "normal"},
    )
