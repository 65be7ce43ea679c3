"""The figures of a run that can be drawn for a paper: those of its page, and the time of steps."""

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
    """Draw the figures of a run by name, None where there is nothing to draw; without its map."""
    figures = {maker.name: maker.draw() for maker in figure_makers(content)}
    if content.train is not None:
        figures["steps"] = step_figure(content.train)
    return figures


def draw_map(content: Content, ending: str) -> bytes:
    """Draw the map of a run's network with the use of its links, as wide as a page of a paper.

    Args:
        content: of the run folder.
        ending: of the file: .pdf, .svg or .png.

    Raises:
        InputError: the plan, which has the network, cannot be read.
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
    """Draw how long each step took, and how long the modelled computation in it.

    Args:
        train: train.parquet (step, start_ns, end_ns, compute_ns: integers). Of each step the means
            over the ranks that compute are shown, as `step_ms` of the summary; over all ranks if
            none computes.

    Returns:
        None without two steps.
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
