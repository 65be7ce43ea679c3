"""Write report.html, one file that works offline, from any content of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from testbed.analysis.advice import Proposal, proposals
from testbed.analysis.verdict import loop_text, meaning, verdict
from testbed.core.plain_text import in_short
from testbed.core.units import format_rate, format_size, format_time
from testbed.plan.model import Datacenter, Direction, Plan
from testbed.report import tables
from testbed.report.figures.common import axis, colour_bar, drawing, latency_figure, loss_figure
from testbed.report.figures.links import matrix_figure, queue_figure, utilisation_figure
from testbed.report.figures.ranks import rank_figure
from testbed.report.flow_table import flows_grid
from testbed.report.gpu_tables import gpu_grid, memory_grid, waits_grid
from testbed.report.grid import Grid
from testbed.report.html import Figure, figure, pack_plotly, policy, render, template_of
from testbed.report.job_tables import job_times_grid, jobs_grid
from testbed.report.load import Content, load
from testbed.report.map.layout import LinkUse
from testbed.report.map.site_map import site_map
from testbed.report.message_table import messages_grid
from testbed.report.perfetto import write_trace
from testbed.report.repeat import repeat_command
from testbed.runfolder.files import replace_bytes
from testbed.runfolder.folder import RunDir, below_run
from testbed.runfolder.status import Status

T = TypeVar("T")
LONGEST_SETTING = 500  # characters; the programs of a replay are longer
LATENCY = (
    "Median time of each operation against its size; both axes are logarithmic: each grid line is "
    "a multiple of the one before. Bars reach from the shortest to the longest iteration. Dashed: "
    "the least time that the network's delays and rates allow any algorithm. Where a line is flat, "
    "latency dominates; where it rises with the dashed line, the links' rate dominates."
)
LOSS = (
    "How well the model predicts the text (the mean of all ranks; lower is better) against the "
    "run's clock, since training began."
)
USED = (
    "Share of each link direction's rate that is in use over time, which counts from the first "
    "operation. With many directions in colour: faint is idle, blue is half, orange is full."
)
QUEUE = (
    "Fill level of the queue in front of each link direction: the maximum in each interval. "
    "Packets that find the queue full are dropped; packets that wait in the queue arrive later. "
    "(Sampled: short peaks may be missed.)"
)
RANKS = (
    "Main activity of each rank (a worker process) in each interval. trace.json has every "
    "operation; open the file at ui.perfetto.dev."
)
COMPUTED = " Computation is drawn from the beginning of each step, even if the rank waits first."
MARKS = " Dotted lines: the network changed."
MATRIX = (
    "Share of its rate that the link from each site (row) to each other one (column) carried on "
    "average, and its bytes, from the first operation's start to the last one's end."
)
MAP = (
    "The sites and the links between them, coloured by the share of their rate that was used on "
    "average."
)
TABLES_OF_JOB = ("training", "collectives", "messages")
NOTE_OF_JOB = (
    "Other jobs ran at the same time (see report.html two folders up). The use of links and queues "
    "is that of all jobs; everything else is this job's."
)
NO_CONNECTION = "The captures hold no TCP connection."
NOT_CAPTURED = (
    "Packets were not captured in this run. With --capture wan, a run has a table of its TCP "
    "connections here."
)
NO_FLOWS = (
    "This run folder has no valid flows.parquet; run `testbed report` to regenerate it "
    "from the captures."
)


@dataclass(frozen=True)
class FigureMaker:
    """The name, the title, the explanation and the drawing function of a figure of the page.

    If `is_over_time`, the figure marks the changes of the network.
    """

    name: str
    title: str
    explanation: str
    draw: Callable[[], go.Figure | None]
    is_over_time: bool = False


def write_page(run: RunDir, shared_plotly: str = "", status: Status | None = None) -> Path:
    """Write report.html and trace.json of a run; the page lists missing and damaged files.

    Each of several jobs also gets a page and a timeline, in its folder.

    Args:
        run: the run folder.
        shared_plotly: path of a file with plotly, relative to the run folder; empty: the page holds
            plotly itself.
        status: the outcome to show; None: that of status.json.

    Returns:
        Path of the page.

    Raises:
        OSError: the files cannot be written.
    """
    content = load(run, status)
    for of_job in content.jobs:
        folder = run.job(of_job.name)
        _attempt(of_job, "trace.json", partial(write_trace, folder, of_job))
        replace_bytes(folder.report, page_html(of_job, below_run(shared_plotly)))
    _attempt(content, "trace.json", lambda: write_trace(run, content))
    replace_bytes(run.report, page_html(content, shared_plotly))
    return run.report


def page_html(content: Content, shared_plotly: str = "") -> bytes:
    """Return the page of a run's content; `shared_plotly` as of `write_page`."""
    return render(
        "report/page.html.j2",
        shared_plotly=shared_plotly,
        content=content,
        verdict=verdict(content.status, content.summary),
        loop="" if content.summary.loop is None else loop_text(content.summary.loop),
        meaning=meaning(content.status, content.summary),
        proposals=_proposals(content),
        grids=_grids(content),
        figures=_figures(content),
        no_flows=_no_flows(content),
        settings=_settings(content),
        command=repeat_command(content),
        jobs=_job_parts(content),
        note_of_job=NOTE_OF_JOB if content.plan is not None and content.plan.job else "",
    )


@dataclass(frozen=True)
class JobPart:
    """The part of one of several jobs on the page of their run.

    Attributes:
        name: name of the job, and of its folder.
        verdict: what became of the job, in a sentence.
        meaning: explanation of the main cause of the job's time; None: not known.
        grids: the tables of its training and its operations.
        has_run_alone: whether there is a run folder of the job alone.
    """

    name: str
    verdict: str
    meaning: str | None
    grids: list[Grid]
    has_run_alone: bool


def _job_parts(content: Content) -> list[JobPart]:
    alone = {row.job for row in content.summary.jobs if row.alone_seconds is not None}
    parts: list[JobPart] = []
    for of_job in content.jobs:
        parts.append(_job_part(of_job, has_run_alone=of_job.name in alone))
    return parts


def _job_part(content: Content, *, has_run_alone: bool) -> JobPart:
    grids = _grids(content)
    return JobPart(
        name=content.name,
        verdict=verdict(content.status, content.summary),
        meaning=meaning(content.status, content.summary),
        grids=[
            replace(grids[name], title=f"{grids[name].title} of {content.name}")
            for name in TABLES_OF_JOB
            if name in grids
        ],
        has_run_alone=has_run_alone,
    )


def _proposals(content: Content) -> list[Proposal]:
    """Return the changes to try for a completed run."""
    plan, status = content.plan, content.status
    if plan is None or status is None or status.state != "completed":
        return []
    return _attempt(content, "advice", lambda: proposals(plan, content.summary)) or []


def warm_up(plan: Plan) -> None:
    """Prepare the parts that are slow for any page of a run of this plan.

    Map outlines, templates, scripts and plotly's modules are then in memory.
    """
    site_map(plan.network, theme="page")
    line = {"color": "black", "width": 1}
    traces = [
        go.Scatter(x=[0], y=[0], line=line, marker={"color": "black"}, error_y={"width": 1}),
        go.Bar(x=[0], y=[0]),
        go.Heatmap(z=[[0]], colorbar=colour_bar("")),
    ]
    template_of("report/page.html.j2")
    policy()
    pack_plotly()
    figure("", "", "", drawing(traces, 100, axis(""), axis("")))


def _attempt(content: Content, product: str, make: Callable[[], T]) -> T | None:
    """Return a product of the content; add a problem and return None if the content is invalid.

    Args:
        content: content to which the problem is added.
        product: name of the product in the problem's message.
        make: function that makes the product.
    """
    try:
        return make()
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        pl.exceptions.PolarsError,
    ) as error:
        cause = f"{type(error).__name__}: {error}"
        content.report_damage(f"cannot make {product} from these files ({cause})")
        return None


def _grids(content: Content) -> dict[str, Grid]:
    """Return the non-empty tables of the page."""
    summary = content.summary
    flows = content.flows
    makers: dict[str, Callable[[], Grid]] = {
        "jobs": lambda: jobs_grid(summary),
        "job_times": lambda: job_times_grid(summary),
        "training": lambda: tables.training_grid(summary),
        "gpu": lambda: gpu_grid(summary),
        "waits": lambda: waits_grid(summary),
        "gpu_memory": lambda: memory_grid(summary),
        "collectives": lambda: tables.collectives_grid(summary),
        "messages": lambda: messages_grid(summary),
        "wan": lambda: tables.wan_grid(summary),
        "periods": lambda: tables.periods_grid(summary),
        "transfers": lambda: tables.transfers_grid(summary),
        "fidelity": lambda: tables.fidelity_grid(summary),
        "stages": lambda: tables.stages_grid(summary),
        "guests": lambda: tables.guests_grid(summary),
    }
    if flows is not None:
        makers["flows"] = lambda: flows_grid(flows)

    grids = {}
    for name, make in makers.items():
        grid = _attempt(content, f"the table {name!r}", make)
        if grid is not None and grid.rows:
            grids[name] = grid
    return grids


def _no_flows(content: Content) -> str:
    """Return why the table of connections is missing; empty with a table or without a WAN."""
    plan = content.plan
    if plan is None or not plan.network.wan:
        return ""
    if content.flows is not None:
        if content.flows.is_empty():
            return NO_CONNECTION
        return ""
    if plan.capture == "none":
        return NOT_CAPTURED
    return NO_FLOWS


def _figures(content: Content) -> dict[str, Figure]:
    """Return the figures that have data."""
    history = content.history
    network_changed = history is not None and bool(history.times_ns)
    figures: dict[str, Figure] = {}
    for maker in figure_makers(content):
        explanation = maker.explanation
        if maker.is_over_time and network_changed:
            explanation += MARKS
        drawn = _attempt(content, f"the figure {maker.title!r}", maker.draw)
        figures.update(figure(maker.name, maker.title, explanation, drawn))

    plan = content.plan
    if plan is not None:
        site_map_figure = _attempt(content, "the map", lambda: _map_figure(plan, content))
        if site_map_figure is not None:
            figures["map"] = site_map_figure
    return figures


def figure_makers(content: Content) -> Iterator[FigureMaker]:
    """Yield the makers of the figures whose tables are readable."""
    plan = content.plan
    history = content.history
    origin_ns = content.origin_ns
    ops = content.ops
    links = content.links
    train = content.train

    yield FigureMaker(
        name="latency",
        title="Time against size",
        explanation=LATENCY,
        draw=lambda: latency_figure(content.summary.collectives),
    )
    yield FigureMaker(
        name="matrix",
        title="Use of the WAN from site to site",
        explanation=MATRIX,
        draw=lambda: matrix_figure(content.summary.wan),
    )
    if train is not None:
        yield FigureMaker(
            name="loss",
            title="Loss against time",
            explanation=LOSS,
            draw=lambda: loss_figure({content.name: train}, history),
            is_over_time=True,
        )
    if history is not None and links is not None:
        yield FigureMaker(
            name="utilisation",
            title="Use of the WAN over time",
            explanation=USED,
            draw=lambda: utilisation_figure(links, history, origin_ns),
            is_over_time=True,
        )
        yield FigureMaker(
            name="queue",
            title="Queues over time",
            explanation=QUEUE,
            draw=lambda: queue_figure(links, history, origin_ns),
            is_over_time=True,
        )
    if plan is not None and ops is not None:
        explanation = RANKS
        if train is not None and "computed_ns" not in train.columns:
            explanation += COMPUTED
        yield FigureMaker(
            name="ranks",
            title="Ranks over time",
            explanation=explanation,
            draw=lambda: rank_figure(ops, train, plan, origin_ns, history),
            is_over_time=True,
        )


def _map_figure(plan: Plan, content: Content) -> Figure:
    svg = site_map(plan.network, mean_use(content), theme="page")
    return Figure("map", "The network", MAP, svg=Markup(svg))


def mean_use(content: Content) -> LinkUse:
    """Return the mean use of each measured direction of a link."""
    use = {}
    for row in content.summary.wan:
        if row.mean_utilisation is not None:
            use[row.source, row.target] = row.mean_utilisation
    return use


def _settings(content: Content) -> dict[str, dict[str, str]]:
    """Return the settings of the run under their titles."""
    plan = content.plan
    if plan is None:
        return {}
    workload = {}
    for key, value in plan.workers.settings.items():
        workload[key] = in_short(json.dumps(value, default=str), LONGEST_SETTING)
    links = {}
    for link in plan.network.wan:
        for direction in link.directions:
            links[f"{direction.source} → {direction.target}"] = _direction_text(direction)
    return {
        "Run": _run_settings(plan),
        "Workload": workload,
        "WAN links as planned": links,
        "Versions": plan.versions,
    }


def _run_settings(plan: Plan) -> dict[str, str]:
    network = plan.network
    workers = plan.workers
    datacenters = [_datacenter_text(dc) for dc in network.datacenters]
    where = "in a guest kernel" if plan.where == "guest" else "on this machine"
    buffer = format_size(network.tcp.buffer_bytes, 3)
    return {
        "topology": network.name,
        "datacenters": ", ".join(datacenters),
        "workload": workers.workload,
        "ranks": str(len(workers.ranks)),
        "isolation": workers.isolation,
        "clock": f"{plan.clock} ({where})",
        "capture": plan.capture,
        "seed": str(plan.seed),
        "TCP": f"{network.tcp.congestion_control}, buffers up to {buffer}",
        "MTU (largest packet)": f"{network.mtu} B",
    }


def _datacenter_text(dc: Datacenter) -> str:
    return f"{dc.name} ({len(dc.hosts)} hosts)"


def _direction_text(direction: Direction) -> str:
    rate = format_rate(direction.bottleneck.rate_bps)
    delay = format_time(direction.fibre.delay_ns)
    return f"{rate}, {delay} one way, queue {direction.bottleneck.queue_packets} packets"
