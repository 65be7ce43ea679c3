"""Figures of a run for a paper: the figures of the run's page, and the time of steps."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from testbed.core.errors import InputError
from testbed.report.figures.common import COLOURS, Trace, axis, drawing
from testbed.report.load import Content
from testbed.report.map.pdf import map_pdf
from testbed.report.map.site_map import png, site_map
from testbed.report.page import figure_makers, mean_use
from testbed.report.paper.style import DOTS_PER_INCH, INCHES

MAP = "map"


def draw_run(content: Content) -> dict[str, go.Figure | None]:
    """Return the figures of a run by name, without the map; None where there is nothing to draw."""
    figures = {maker.name: maker.draw() for maker in figure_makers(content)}
    if content.train is not None:
        figures["steps"] = step_figure(content.train)
    return figures


def draw_map(content: Content, ending: str) -> bytes:
    """Return the map of a run's network with the use of the links, as wide as a paper's page.

    Args:
        content: content of the run folder.
        ending: ending of the file: .pdf, .svg or .png.

    Raises:
        InputError: the plan, which holds the network, cannot be read.
    """
    if content.plan is None:
        raise InputError("cannot draw the map: plan.json is missing or damaged")
    svg = site_map(content.plan.network, mean_use(content), theme="light")
    if ending == ".pdf":
        return map_pdf(svg)
    if ending == ".png":
        return png(svg, round(INCHES["double"] * DOTS_PER_INCH))
    return svg.encode()


def step_figure(train: pl.DataFrame) -> go.Figure | None:
    """Draw the time of each step, and the time of the modelled computation in the step.

    Args:
        train: train.parquet (step, start_ns, end_ns, compute_ns: integers). The figure shows the
            mean of each step over the ranks that compute, as `step_ms` of the summary does, or over
            all ranks if none computes.

    Returns:
        The figure, or None with fewer than two steps.
    """
    computing = train.filter(pl.col("compute_ns").sum().over("rank") > 0)
    if computing.is_empty():
        computing = train
    duration_ns = pl.col("end_ns") - pl.col("start_ns")
    steps = computing.group_by("step").agg(
        step_ms=duration_ns.mean() / 1e6, compute_ms=pl.col("compute_ns").mean() / 1e6
    )
    steps = steps.sort("step")
    if steps.height < 2:
        return None
    traces = [
        _step_trace(steps, "step_ms", "step", COLOURS[0]),
        _step_trace(steps, "compute_ms", "computation", COLOURS[1]),
    ]
    return drawing(traces, 380, axis("step"), axis("time (ms)", rangemode="tozero"))


def _step_trace(steps: pl.DataFrame, column: str, name: str, colour: str) -> Trace:
    return go.Scatter(
        x=steps["step"].to_list(),
        y=steps[column].to_list(),
        name=name,
        mode="lines",
        line={"color": colour, "width": 2},
    )
