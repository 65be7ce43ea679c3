"""report.html: one file that works offline, from whatever a run folder holds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from testbed.analysis.verdict import meaning, verdict
from testbed.core.units import format_rate, format_size, format_time
from testbed.plan.model import Plan
from testbed.report import tables
from testbed.report.figures.common import axis, colour_bar, drawing, latency_figure, loss_figure
from testbed.report.figures.links import matrix_figure, queue_figure, utilisation_figure
from testbed.report.figures.ranks import rank_figure
from testbed.report.flow_table import flows_grid
from testbed.report.html import Figure, figure, policy, render, template_of
from testbed.report.load import Content, load
from testbed.report.map.site_map import site_map
from testbed.report.perfetto import write_trace
from testbed.runfolder.folder import RunDir

T = TypeVar("T")
LATENCY = (
    "How long each operation takes (median) against how many bytes it moves; both axes are logarithmic: each grid "
    "line is a multiple of the one before. Bars reach from the shortest to the longest iteration. Dashed: the least "
    "time that the network's delays and rates allow any algorithm. Where a line is flat, latency rules; where it "
    "climbs with the dashed one, the links' rate does."
)
LOSS = (
    "How well the model predicts the text (the mean of all ranks; lower is better) against the run's clock, since "
    "training began."
)
USED = (
    "Share of each link direction's rate that is in use over time, which counts from the first operation. With many "
    "directions in colour: faint is idle, blue is half, orange is full."
)
QUEUE = (
    "How full the queue in front of each link direction is, at its fullest within each piece of time. Packets that "
    "find it full are dropped; what waits in it arrives later. (Sampled: short peaks may be missed.)"
)
RANKS = (
    "What each rank, one worker process, does most of the time in each piece of time. trace.json has every single "
    "operation: open it at ui.perfetto.dev."
)
COMPUTED = " Computation is drawn from the beginning of each step on; a rank that waits first does it later."
MARKS = " Dotted lines across: the network changed."
MATRIX = (
    "Share of its rate that the link from each site (row) to each other one (column) carried on average, and its "
    "bytes, from the first operation's start to the last one's end."
)
MAP = "The sites and the links between them, coloured by the share of their rate that was used on average."


def write_page(run: RunDir) -> Path:
    """Write report.html and trace.json of `run` and return the path of the page.

    A missing or damaged file becomes a line on the page.

    Raises:
        OSError: they cannot be written.
    """
    content = load(run)
    _attempt(content, "trace.json", lambda: write_trace(run, content))
    html = render(
        "report/page.html.j2",
        content=content,
        verdict=_attempt(content, "the verdict", lambda: verdict(content.outcome, content.results)),
        meaning=_attempt(content, "the verdict", lambda: meaning(content.outcome, content.results)),
        grids=_grids(content),
        figures=_figures(content),
        no_flows=_no_flows(content),
        settings=_settings(content),
        command=repeat_command(content),
    )
    run.report.write_bytes(html)
    return run.report


def warm_up(plan: Plan) -> None:
    """Do what takes time whatever a run of `plan` finds: its map's outlines, templates, scripts,
    plotly's modules.
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
    figure("", "", "", drawing(traces, 100, axis(""), axis("")))


def _attempt(content: Content, what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; None, with a line on the page, if the run folder holds nonsense."""
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
        content.missing.append(
            f"{what} cannot be made of these files ({type(error).__name__}: {error})"
        )
        return None


def _grids(content: Content) -> dict[str, tables.Grid]:
    """The tables of the page that have rows."""
    summary, flows = content.summary, content.flows
    makers: dict[str, Callable[[], tables.Grid]] = {
        "training": lambda: tables.training_grid(summary),
        "collectives": lambda: tables.collectives_grid(summary),
        "wan": lambda: tables.wan_grid(summary),
        "periods": lambda: tables.periods_grid(summary),
        "transfers": lambda: tables.transfers_grid(summary),
        "fidelity": lambda: tables.fidelity_grid(summary),
        "stages": lambda: tables.stages_grid(summary),
    }
    if flows is not None:
        makers["flows"] = lambda: flows_grid(flows)
    made = {name: _attempt(content, f"the table {name!r}", make) for name, make in makers.items()}
    return {name: grid for name, grid in made.items() if grid is not None and grid.rows}


def _no_flows(content: Content) -> str:
    """Why there is no table of connections; empty if there is one, or no WAN."""
    if content.plan is None or not content.plan.network.wan:
        return ""
    if content.flows is not None:
        return "The captures hold no TCP connection." if content.flows.is_empty() else ""
    if content.plan.capture == "none":
        return "Packets were not captured in this run. With --capture wan, a run has a table of its TCP connections here."
    return "There is no sound flows.parquet in this run folder; testbed report makes it anew from the captures."


def _figures(content: Content) -> dict[str, Figure]:
    """Those for which there are data."""
    plan, history, summary, origin = (
        content.plan,
        content.history,
        content.summary,
        content.origin_ns,
    )
    ops, links, train = content.ops, content.links, content.train
    makers: list[tuple[str, str, str, Callable[[], go.Figure | None]]] = [
        ("latency", "Time against size", LATENCY, lambda: latency_figure(summary["collectives"])),
        (
            "matrix",
            "Use of the WAN from site to site",
            MATRIX,
            lambda: matrix_figure(summary["wan"]),
        ),
    ]
    if train is not None:
        makers.append(
            ("loss", "Loss against time", LOSS, lambda: loss_figure({content.name: train}, history))
        )
    if history is not None and links is not None:
        makers.append(
            (
                "utilisation",
                "Use of the WAN over time",
                USED,
                lambda: utilisation_figure(links, history, origin),
            )
        )
        makers.append(
            ("queue", "Queues over time", QUEUE, lambda: queue_figure(links, history, origin))
        )
    if plan is not None and ops is not None:
        words = RANKS + (
            COMPUTED if train is not None and "computed_ns" not in train.columns else ""
        )
        makers.append(
            (
                "ranks",
                "Ranks over time",
                words,
                lambda: rank_figure(ops, train, plan, origin, history),
            )
        )
    found: dict[str, Figure] = {}
    marked = (
        {"loss", "utilisation", "queue", "ranks"}
        if history is not None and history.times_ns
        else set()
    )
    for name, title, words, make in makers:
        text = words + (MARKS if name in marked else "")
        found |= figure(name, title, text, _attempt(content, f"the figure {title!r}", make))
    if (
        plan is not None
        and (drawn := _attempt(content, "the map", lambda: _map(plan, summary["wan"]))) is not None
    ):
        found["map"] = drawn
    return found


def _map(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    use = {
        (row["from"], row["to"]): float(row["mean_utilisation"])
        for row in rows
        if row["mean_utilisation"] is not None
    }
    return Figure("map", "The network", MAP, svg=Markup(site_map(plan.network, use, theme="page")))


def _settings(content: Content) -> dict[str, dict[str, str]]:
    """Titled lists of what the run was told to do."""
    plan = content.plan
    if plan is None:
        return {}
    network, workers = plan.network, plan.workers
    links = {
        f"{way.source} → {way.target}": f"{format_rate(way.bottleneck.rate_bps)}, "
        f"{format_time(way.fibre.delay_ns)} one way, queue {way.bottleneck.queue_packets} packets"
        for link in network.wan
        for way in link.directions
    }
    return {
        "Run": {
            "topology": network.name,
            "datacenters": ", ".join(
                f"{dc.name} ({len(dc.hosts)} hosts)" for dc in network.datacenters
            ),
            "workload": workers.workload,
            "ranks": str(len(workers.ranks)),
            "isolation": workers.isolation,
            "clock": f"{plan.clock} ({'in a guest kernel' if plan.where == 'guest' else 'on this machine'})",
            "capture": plan.capture,
            "seed": str(plan.seed),
            "TCP": f"{network.tcp.congestion_control}, buffers up to {format_size(network.tcp.buffer_bytes, 3)}",
            "MTU (largest packet)": f"{network.mtu} B",
        },
        "Workload": {
            key: json.dumps(value, default=str) for key, value in workers.settings.items()
        },
        "WAN links as planned": links,
        "Versions": plan.versions,
    }


def repeat_command(content: Content) -> str:
    """What was typed, if status.json has it (`command`: text, or a list of words); else a command
    made of the plan.

    Without the run folder, which is never overwritten.
    """
    typed = content.status.get("command")
    if isinstance(typed, list) and typed:
        program, *words = (str(word) for word in typed)
        own = words.index("--") if "--" in words else len(words)
        kept = [word for i, word in enumerate(words) if i > own or not _names_folder(words, i)]
        return shlex.join(
            [{"__main__.py": "testbed"}.get(Path(program).name, Path(program).name), *kept]
        )
    if typed:
        return str(typed)
    plan = content.plan
    if plan is None:
        return ""
    made = ["testbed", "run", plan.network.name, plan.workers.workload, "--seed", str(plan.seed)]
    made += ["--clock", plan.clock, "--isolation", plan.workers.isolation]
    return shlex.join([*made, "--capture", plan.capture])


def _names_folder(words: list[str], i: int) -> bool:
    return (
        words[i] == "--out" or words[i].startswith("--out=") or (i > 0 and words[i - 1] == "--out")
    )
