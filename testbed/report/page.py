"""report.html: one file that works offline, from whatever a run folder holds."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl
from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import ValidationError

from testbed.plan import Plan
from testbed.report import tables
from testbed.report.plots import latency_figure, loss_figure, utilisation_figure
from testbed.report.verdict import verdict
from testbed.rundir import RunDir, read_json
from testbed.units import format_rate, format_size, format_time

ROW_KEYS = {
    "collectives": {"op", "bytes", "ranks", "dtype", "time_us", "algbw_gbytes", "busbw_gbytes"},
    "wan": {"from", "to", "bytes", "rate_bps", "mean_utilisation"},
    "fidelity": {"from", "to"},
    "stages": {"stage", "wall_seconds", "emulated_seconds"},
}
FIGURE_BUTTONS = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]


@dataclass
class Content:
    """What could be read of a run folder; `missing` says what could not."""

    name: str
    plan: Plan | None = None
    status: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    links: pl.DataFrame | None = None
    train: pl.DataFrame | None = None  # only of a run that trained
    spec: str = ""
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A figure as HTML; `words` says what it shows to people who do not see it."""

    title: str
    words: str
    html: Markup


def write_page(run: RunDir) -> Path:
    """Write report.html of `run` and return its path. A missing or damaged file becomes a line on the page.

    Raises:
        OSError: the page cannot be written.
    """
    content = load(run)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("testbed.report").joinpath("page.html.j2").read_text())
    html = template.render(
        content=content,
        verdict=verdict(content.status, content.summary),
        grids=_grids(content),
        figures=_figures(content),
        settings=_settings(content),
        command=repeat_command(content),
        plotly=Markup(get_plotlyjs()),
    )
    run.report.write_text(html)
    return run.report


def load(run: RunDir) -> Content:
    """Everything of `run` that the page shows."""
    content = Content(run.path.name)
    content.status = read_json(run.status, content.missing)
    content.summary = _sound_rows(read_json(run.summary, content.missing), content.missing)
    try:
        content.plan = run.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        content.missing.append(f"plan.json cannot be read ({type(error).__name__})")
    try:
        content.links = pl.read_parquet(run.links)
        content.links.select("time_ns", "source", "link", "bytes")
    except (OSError, pl.exceptions.PolarsError) as error:
        content.links = None
        content.missing.append(f"links.parquet cannot be read ({type(error).__name__})")
    if run.train.is_file():
        try:
            content.train = pl.read_parquet(run.train).select("step", "start_ns", "end_ns", "loss")
        except (OSError, pl.exceptions.PolarsError) as error:
            content.missing.append(f"train.parquet cannot be read ({type(error).__name__})")
    if run.spec.is_file():
        content.spec = run.spec.read_text(errors="replace")
    content.missing += [str(problem) for problem in content.summary.get("problems") or []]
    return content


def _sound_rows(summary: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """`summary` without the rows of its tables that lack a key."""
    sound = dict(summary)
    for table, keys in ROW_KEYS.items():
        rows = summary.get(table) or []
        good = [row for row in rows if isinstance(row, dict) and keys <= row.keys() and _whole_times(row)]
        if len(good) < len(rows):
            missing.append(f"summary.json: {len(rows) - len(good)} rows of {table!r} are damaged and left out")
        sound[table] = good
    return sound


def _whole_times(row: dict[str, Any]) -> bool:
    times = row.get("time_us")
    return times is None or (isinstance(times, dict) and times.keys() >= {"min", "median", "max"})


def _grids(content: Content) -> dict[str, tables.Grid]:
    """The tables of the page that have rows."""
    grids = {
        "training": tables.training_grid(content.summary),
        "collectives": tables.collectives_grid(content.summary),
        "wan": tables.wan_grid(content.summary),
        "fidelity": tables.fidelity_grid(content.summary),
        "stages": tables.stages_grid(content.summary),
    }
    return {name: grid for name, grid in grids.items() if grid.rows}


def _figures(content: Content) -> dict[str, Figure]:
    figures = {}
    latency = latency_figure(content.summary["collectives"])
    words = "Median time of each operation against its size, both on logarithmic scales; bars reach from the shortest"
    words += " to the longest iteration. Dashed: the least time that the topology allows."
    if latency is not None:
        figures["latency"] = _figure("latency", "Time against size", words, latency)
    if content.train is not None and (learnt := loss_figure(content.train)) is not None:
        words = "Mean loss of all ranks against the run's clock, from the beginning of training."
        figures["loss"] = _figure("loss", "Loss against time", words, learnt)
    if content.links is not None and content.plan is not None:
        used = utilisation_figure(content.links, content.plan.network)
        words = "Share of each WAN direction's rate that is in use over time. Faint: idle; blue: half; orange: full."
        if used is not None:
            figures["utilisation"] = _figure("utilisation", "WAN utilisation over time", words, used)
    return figures


def _figure(name: str, title: str, words: str, figure: go.Figure) -> Figure:
    image = {"format": "svg", "filename": name}
    config = {"responsive": True, "displaylogo": False, "modeBarButtons": FIGURE_BUTTONS, "toImageButtonOptions": image}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"figure-{name}")
    return Figure(title, words, Markup(html))


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
            "datacenters": ", ".join(f"{dc.name} ({len(dc.hosts)} hosts)" for dc in network.datacenters),
            "workload": workers.workload,
            "ranks": str(len(workers.ranks)),
            "isolation": workers.isolation,
            "clock": f"{plan.clock} ({'in a guest kernel' if plan.where == 'guest' else 'on this machine'})",
            "capture": plan.capture,
            "seed": str(plan.seed),
            "TCP": f"{network.tcp.congestion_control}, buffers up to {format_size(network.tcp.buffer_bytes, 3)}",
            "MTU": f"{network.mtu} B",
        },
        "Workload": {key: json.dumps(value, default=str) for key, value in workers.settings.items()},
        "WAN links as planned": links,
        "Versions": plan.versions,
    }


def repeat_command(content: Content) -> str:
    """What was typed, if status.json has it (`command`: text, or a list of words); else a command made of the plan."""
    typed = content.status.get("command")
    if isinstance(typed, list):
        return shlex.join(str(word) for word in typed)
    if typed:
        return str(typed)
    plan = content.plan
    if plan is None:
        return ""
    words = ["testbed", "run", plan.network.name, plan.workers.workload, "--seed", str(plan.seed)]
    words += ["--clock", plan.clock, "--where", plan.where, "--isolation", plan.workers.isolation]
    return shlex.join([*words, "--capture", plan.capture])
