"""The page of a sweep (sweep.html): figures, and a table of points with links to their reports."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from testbed.core.errors import InputError
from testbed.report.html import Figure, figure, render
from testbed.runfolder.files import read_plain, replace_bytes
from testbed.sweep.cells import cell, heading
from testbed.sweep.figures import draw, marks_unfaithful
from testbed.sweep.folder import SweepDir
from testbed.sweep.outcome import Outcome, is_unfaithful
from testbed.sweep.plots import SweepPlot, choose_plots
from testbed.sweep.results import in_present_grid

TEMPLATE = "sweep/page.html.j2"
KEY_COLUMNS = (
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
    "jobs_s",
    "slowdown",
    "wan_drops",
    "faithful",
    "doubts",
    "wall_seconds",
)
HOLLOW_NOTE = " Hollow: points that are not faithful."
ASTERISK_NOTE = " An asterisk marks points that are not faithful."
REPEATS_NOTE = " Repeats: the median, with bars from the least to the largest."


@dataclass(frozen=True)
class _PointRow:
    """A row of the page's table; `link` leads to the point's report, empty without a report.

    `doubts` says why a complete point is not faithful.
    """

    name: str
    state: str
    reason: str
    is_unfaithful: bool
    doubts: str
    link: str
    in_grid: bool
    cells: list[str]


@dataclass(frozen=True)
class _PointsTable:
    """The page's table: column names, whether each column is numeric, and rows."""

    names: list[str]
    numbers: list[bool]
    rows: list[_PointRow]


def write_page(folder: SweepDir, points: pl.DataFrame, collectives: pl.DataFrame) -> Path:
    """Write sweep.html, and return its path.

    Args:
        folder: The sweep folder.
        points: One row per point (see `testbed.sweep.results`).
        collectives: One row per point, operation and size.

    Returns:
        The path of the page.

    Raises:
        InputError: Sweep.json cannot be read.
        OSError: The page cannot be written.
    """
    return _write(folder.page, page_html(folder, points, collectives))


def page_html(folder: SweepDir, points: pl.DataFrame, collectives: pl.DataFrame) -> bytes:
    """Return the page of a sweep; arguments are the same as in `write_page`.

    Raises:
        InputError: Sweep.json cannot be read.
    """
    index = folder.read_index()
    figures: list[Figure] = []
    problems: list[str] = []
    for number, plot in enumerate(choose_plots(index, in_present_grid(points)), 1):
        try:
            figures += _figure(number, plot, points, collectives, repeated=index.repeated)
        except InputError as error:
            problems.append(f"{plot.heading!r}: {error.what} ({error.remedy})")

    arguments = index.command[1:]
    return render(
        TEMPLATE,
        index=index,
        outcome=Outcome.of(points.columns, points.rows()),
        figures=figures,
        problems=problems,
        table=_table(folder, index.axes, points),
        command=shlex.join(["testbed", *arguments]),
        spec=_experiment_text(folder),
    )


def _experiment_text(folder: SweepDir) -> str:
    if not folder.experiment.is_file():
        return ""
    try:
        return read_plain(folder.experiment)
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot read {folder.experiment.name} ({type(error).__name__})"


def write_figures(
    path: Path, plots: Sequence[SweepPlot], points: pl.DataFrame, collectives: pl.DataFrame
) -> Path:
    """Write a page that contains only figures, and return its path.

    Args:
        path: Path of the page.
        plots: Columns and labels of each figure.
        points: One row per point (see `testbed.sweep.results`).
        collectives: One row per point, operation and size.

    Returns:
        `path`.

    Raises:
        InputError: A figure cannot be drawn, or all figures are empty.
        OSError: The page cannot be written.
    """
    figures: list[Figure] = []
    for number, plot in enumerate(plots, 1):
        figures += _figure(number, plot, points, collectives)
    if not figures:
        raise InputError("nothing to draw: no complete point has these values")
    return _write(path, render(TEMPLATE, index=None, figures=figures))


def _figure(
    number: int,
    plot: SweepPlot,
    points: pl.DataFrame,
    collectives: pl.DataFrame,
    *,
    repeated: bool = False,
) -> Iterable[Figure]:
    """Return the figure of a plot; empty if no point has its values.

    Raises:
        InputError: As for `draw`.
    """
    caption = _caption(plot)
    if repeated:
        caption += REPEATS_NOTE
    drawing = draw(plot, points, collectives)
    if drawing is not None and marks_unfaithful(drawing):
        caption += ASTERISK_NOTE if plot.heat else HOLLOW_NOTE
    figures = figure(figure_name(number, plot), plot.heading, caption, drawing)
    return figures.values()


def figure_name(number: int, plot: SweepPlot) -> str:
    """Return a figure's name, from its number and title, in characters that suit a file name."""
    slug = re.sub("[^a-z0-9]+", "-", plot.heading.lower()).strip("-")
    return f"{number}-{slug}"


def _caption(plot: SweepPlot) -> str:
    text = f"{plot.metric.label} against {plot.x}"
    if plot.series:
        text += f", for each {plot.series}"
    if plot.facet:
        text += f", in a panel for each {plot.facet}"

    bound = plot.metric.bound
    if bound is None:
        return text + "."

    meaning = "what the topology allows at best"
    if bound.startswith("compute"):
        meaning = "the modelled computation alone"
    if plot.heat:
        return f"{text}. The percentage compares the value with {meaning}."

    return f"{text}. Dashed: {meaning}."


def _table(folder: SweepDir, axes: Sequence[str], points: pl.DataFrame) -> _PointsTable:
    names = [name for name in (*axes, "repeat", *KEY_COLUMNS) if name in points.columns]
    if "repeat" in names and points["repeat"].n_unique() == 1:
        names.remove("repeat")
    if "doubts" in names and points["doubts"].null_count() == points.height:
        names.remove("doubts")

    rows: list[_PointRow] = []

    for point in points.iter_rows(named=True):
        link = _report_link(folder, point.get("folder"))
        cells = [cell(name, point[name]) for name in names]
        row = _PointRow(
            name=point["point"],
            state=point["state"],
            reason=point.get("reason") or "",
            is_unfaithful=is_unfaithful(point),
            doubts=point.get("doubts") or "",
            link=link,
            in_grid=point.get("in_grid", True),
            cells=cells,
        )
        rows.append(row)

    numbers = [points[name].dtype.is_numeric() for name in names]
    return _PointsTable([heading(name) for name in names], numbers, rows)


def _report_link(folder: SweepDir, run_folder: str | None) -> str:
    """Return a link to the report of a point; empty if a killed point left no report."""
    if run_folder is None:
        return ""
    link = f"{run_folder}/report.html"
    report = folder.path / link
    return link if report.is_file() else ""


def _write(path: Path, html: bytes) -> Path:
    replace_bytes(path, html)
    return path
