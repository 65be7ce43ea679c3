"""sweep.html: the figures of a sweep and a table whose points are links to their reports. Works
offline.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from testbed.core.errors import InputError
from testbed.core.units import format_cell
from testbed.report.html import Figure, figure, render
from testbed.runfolder.folder import read_json
from testbed.sweep.figures import MEASURED, Plot, choose, draw
from testbed.sweep.folder import SweepDir

KEY_FIGURES = (
    "op",
    "time_us",
    "bound_us",
    "efficiency",
    "step_ms",
    "utilisation",
    "tokens_per_s",
    "wan_bytes_per_step",
    "final_loss",
    "time_to_loss_s",
    "wan_drops",
    "faithful",
    "wall_seconds",
)


def write_page(folder: SweepDir, points: pl.DataFrame, collectives: pl.DataFrame) -> Path:
    """Write sweep.html and return its path.

    Raises:
        OSError: it cannot be written.
    """
    index = read_json(folder.index, [])
    repeated = any(point["repeat"] for point in index.get("points", []))
    figures: list[Figure] = []
    problems: list[str] = []
    for number, plot in enumerate(choose(index, points), 1):
        try:
            figures += _drawn(number, plot, points, collectives, repeated=repeated)
        except InputError as error:
            problems.append(f"{plot.heading!r}: {error.what} ({error.remedy})")
    states = {
        state: int((points["state"] == state).sum()) for state in ("completed", "failed", "missing")
    }
    html = render(
        "sweep/page.html.j2",
        index=index,
        states=states,
        figures=figures,
        problems=problems,
        table=_table(folder, index.get("axes", []), points),
        command=shlex.join(["testbed", *index.get("command", [])[1:]]),
        spec=folder.experiment.read_text() if folder.experiment.is_file() else "",
    )
    return _write(folder.page, html)


def write_figures(
    path: Path, plots: Sequence[Plot], points: pl.DataFrame, collectives: pl.DataFrame
) -> Path:
    """Write a page with figures alone.

    Raises:
        InputError: a figure cannot be drawn.
    """
    figures = [
        item
        for number, plot in enumerate(plots, 1)
        for item in _drawn(number, plot, points, collectives)
    ]
    if not figures:
        raise InputError("there is nothing to draw: no complete point has these values")
    return _write(path, render("sweep/page.html.j2", index={}, figures=figures))


def _drawn(
    number: int,
    plot: Plot,
    points: pl.DataFrame,
    collectives: pl.DataFrame,
    *,
    repeated: bool = False,
) -> Iterable[Figure]:
    """The figure, if there is anything to draw.

    Raises:
        InputError: as `draw`.
    """
    name = f"{number}-{re.sub('[^a-z0-9]+', '-', plot.heading.lower()).strip('-')}"
    words = _words(plot) + (
        " Repeats: the median, with bars from the least to the largest." if repeated else ""
    )
    return figure(name, plot.heading, words, draw(plot, points, collectives)).values()


def _write(path: Path, html: bytes) -> Path:
    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(html)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return path


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
        text += (
            f". The percentage is how near it is to {what}" if plot.heat else f". Dashed: {what}"
        )
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
    return {
        "names": names,
        "numbers": [points[name].dtype.is_numeric() for name in names],
        "rows": rows,
    }


def _report_of(folder: SweepDir, point: str | None) -> str:
    link = f"{point}/report.html"
    return link if point and (folder.path / link).is_file() else ""


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return format_cell(value)
