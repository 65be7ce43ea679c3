"""sweep.html: the figures of a sweep and a table whose points are links to their reports. Works offline."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import polars as pl
from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from testbed.errors import InputError
from testbed.rundir import read_json
from testbed.sweep.figures import MEASURED, Plot, choose, draw
from testbed.sweep.folder import SweepDir
from testbed.units import format_figure

KEY_FIGURES = (
    "op", "time_us", "bound_us", "efficiency", "step_ms", "utilisation", "tokens_per_s", "wan_bytes_per_step",
    "final_loss", "time_to_loss_s", "wan_drops", "faithful", "wall_seconds",
)  # fmt: skip
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    "toImageButtonOptions": {"format": "svg"},
}


def write_page(folder: SweepDir, points: pl.DataFrame, collectives: pl.DataFrame) -> Path:
    """Write sweep.html and return its path.

    Raises:
        OSError: it cannot be written.
    """
    index = read_json(folder.index, [])
    figures, problems = [], []
    for number, plot in enumerate(choose(index, points)):
        try:
            figure = draw(plot, points, collectives)
        except InputError as error:
            problems.append(f"the figure {plot.heading!r}: {error.what} ({error.remedy})")
            continue
        if figure is not None:
            figures.append({"title": plot.heading, "words": _words(plot), "html": _html(figure, number)})
    states = {state: int((points["state"] == state).sum()) for state in ("completed", "failed", "missing")}
    html = _template().render(
        index=index, states=states, figures=figures, problems=problems,
        repeated=any(point["repeat"] for point in index.get("points", [])),
        table=_table(folder, index.get("axes", []), points),
        command=shlex.join(["testbed", *index.get("command", [])[1:]]), plotly=Markup(get_plotlyjs()),
        spec=folder.experiment.read_text() if folder.experiment.is_file() else "",
    )  # fmt: skip
    return _write(folder.page, html)


def write_figures(path: Path, plots: Sequence[Plot], points: pl.DataFrame, collectives: pl.DataFrame) -> Path:
    """Write a page with figures alone.

    Raises:
        InputError: a figure cannot be drawn.
    """
    drawn = [(plot, draw(plot, points, collectives)) for plot in plots]
    figures = [
        {"title": plot.heading, "words": _words(plot), "html": _html(figure, number)}
        for number, (plot, figure) in enumerate(drawn)
        if figure is not None
    ]
    if not figures:
        raise InputError("there is nothing to draw: no complete point has these values")
    return _write(path, _template().render(index={}, figures=figures, plotly=Markup(get_plotlyjs())))


def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(resources.files("testbed.sweep").joinpath("page.html.j2").read_text())


def _write(path: Path, html: str) -> Path:
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(html)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return path


def _html(figure: go.Figure, number: int) -> Markup:
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG, div_id=f"figure-{number}"))


def _words(plot: Plot) -> str:
    measured = MEASURED.get(plot.y)
    text = f"{measured.label if measured else plot.y} against {plot.x}"
    text += f", for each {plot.series}" if plot.series else ""
    text += f", in a panel for each {plot.facet}" if plot.facet else ""
    if measured is not None and measured.bound is not None:
        what = (
            "the modelled computation alone"
            if measured.bound.startswith("compute")
            else "what the topology allows at best"
        )
        text += f". The percentage is how near it is to {what}" if plot.heat else f". Dashed: {what}"
    return text + "."


def _table(folder: SweepDir, axes: list[str], points: pl.DataFrame) -> dict[str, Any]:
    """The rows of the page; a point that was killed has no report to link."""
    names = [name for name in (*axes, "repeat", *KEY_FIGURES) if name in points.columns]
    if "repeat" in names and points["repeat"].n_unique() == 1:
        names.remove("repeat")
    rows = [
        {
            "name": row["point"],
            "state": row["state"],
            "reason": row.get("reason") or "",
            "link": _report_of(folder, row.get("folder")),
            "cells": [_text(row[name]) for name in names],
        }
        for row in points.iter_rows(named=True)
    ]
    return {"names": names, "numbers": [points[name].dtype.is_numeric() for name in names], "rows": rows}


def _report_of(folder: SweepDir, point: str | None) -> str:
    link = f"{point}/report.html"
    return link if point and (folder.path / link).is_file() else ""


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return format_figure(value) if isinstance(value, float) else str(value)
