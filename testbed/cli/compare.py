"""testbed compare: differences between runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testbed.cli.files import (
    PAGE_ENDINGS,
    FigureOption,
    PaperWidthOption,
    check_ending,
    check_figure_file,
    write_file,
)
from testbed.cli.options import Format, FormatOption
from testbed.cli.output import print_unfaithful, wide_console
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError, reading
from testbed.report.compare import Difference, measured, measured_grid, plan_differences, plan_grid
from testbed.report.paper.choice import PaperWidth, choose_figures
from testbed.report.tables import render
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem
from testbed.runfolder.status import Status
from testbed.runfolder.summary import read_object, read_summary

if TYPE_CHECKING:
    from testbed.report.compare_page import Side
    from testbed.report.load import Content

Document = dict[str, Any]  # unvalidated plan.json

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_HTML",
        metavar="FILE",
        help="write a page with tables and figures to FILE",
    ),
]


@dataclass(frozen=True)
class RunComparison:
    """Differences between runs.

    Attributes:
        folders: Run folders.
        names: Short name of each run.
        plan: Differences between the plans.
        measured: Measurements of every run.
        statuses: Outcome of each run; None where unreadable.
    """

    folders: list[str]
    names: list[str]
    plan: list[Difference]
    measured: list[Difference]
    statuses: list[Status | None]

    def print(self, output: Format) -> None:
        """Print both tables, or all data as JSON.

        Runs that are not faithful are named first, and for people also last.
        """
        self.print_unfaithful(output)
        if output is Format.JSON:
            document = {
                "runs": self.folders,
                "faithful": [status and status.faithful for status in self.statuses],
                "doubts": [status.doubts if status else [] for status in self.statuses],
                "plan": [row.record() for row in self.plan],
                "measured": [row.record() for row in self.measured],
            }
            typer.echo(json.dumps(document, indent=2))
            return

        grids = (
            plan_grid(self.plan, self.names),
            measured_grid(self.measured, self.names, statuses=self.statuses),
        )
        for grid in grids:
            if output is Format.CSV:
                header = [column.header for column in grid.columns]
                typer.echo(csv_text(header, grid.rows))
            else:
                wide_console().print(render(grid))

    def print_unfaithful(self, output: Format) -> None:
        """Name the runs that are not faithful."""
        for name, status in zip(self.names, self.statuses, strict=True):
            print_unfaithful(status, output, name)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="run folders, at least two; ratios are relative to the first"
        ),
    ],
    html: HtmlOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="write figures for a paper to a .pdf, .svg or .png",
        ),
    ] = None,
    figure: FigureOption = None,
    width: PaperWidthOption = "single",
    output: FormatOption = Format.TABLE,
) -> None:
    """Compare runs: differences between their plans and between their measurements."""
    from testbed.report.load import load  # noqa: PLC0415 (polars takes a while to import)

    if len(runs) < 2:
        raise InputError("compare needs at least two run folders")
    if html is not None:
        check_ending(html, PAGE_ENDINGS, "--html")
    check_figure_file(out, figure)

    folders = [RunDir.open(path) for path in runs]
    plans = [_read_plan(folder.plan) for folder in folders]
    for folder in folders:
        _, problems = read_summary(folder.summary)
        _refuse(folder.summary, problems, "run `testbed report RUN` to regenerate it")

    with reading(folders[0].path.parent):
        contents = [load(folder) for folder in folders]
        names = _names([folder.path for folder in folders])
        comparison = RunComparison(
            folders=[str(folder.path) for folder in folders],
            names=names,
            plan=plan_differences(plans),
            measured=measured([content.summary for content in contents]),
            statuses=[content.status for content in contents],
        )

        if html is not None:
            _write_page(html, _sides(names, contents, plans))
        if out is not None:
            _write_figures(out, figure, width, _sides(names, contents, plans))
        comparison.print(output)
        if html is not None and output is Format.TABLE:
            typer.echo(f"page: {html}")
        if out is not None and output is Format.TABLE:
            typer.echo(f"figures: {out}")
        if output is Format.TABLE:
            comparison.print_unfaithful(output)


def _read_plan(path: Path) -> Document:
    """Read plan.json without validation, so that plans of other versions can be compared."""
    document, problems = read_object(path)
    _refuse(path, problems, "plan.json is required to compare runs")
    return document


def _refuse(path: Path, problems: list[Problem], remedy: str) -> None:
    """Raise InputError if a file has problems.

    Args:
        path: Path of the file.
        problems: Problems of the file.
        remedy: Advice for the error message.
    """
    if problems:
        raise InputError(f"{path.parent}: {problems[0]}", remedy=remedy)


def _sides(names: list[str], contents: list[Content], plans: list[Document]) -> list[Side]:
    from testbed.report.compare_page import Side  # noqa: PLC0415 (plotly takes a while to import)

    sides: list[Side] = []
    for name, content, plan in zip(names, contents, plans, strict=True):
        sides.append(Side(name, content, plan))
    return sides


def _write_page(path: Path, sides: list[Side]) -> None:
    from testbed.report.compare_page import compare_page  # noqa: PLC0415 (as plotly does)

    write_file(path, compare_page(sides), "--html")


def _write_figures(path: Path, name: str | None, width: PaperWidth, sides: list[Side]) -> None:
    from testbed.report.compare_page import draw_comparison  # noqa: PLC0415 (as plotly does)
    from testbed.report.paper.files import paper_bytes  # noqa: PLC0415 (as matplotlib does)

    ending = path.suffix.lower()
    figures = choose_figures(draw_comparison(sides), name, ending)
    write_file(path, paper_bytes(figures, ending, width), "--out")


def _names(paths: list[Path]) -> list[str]:
    """Return a short name for each folder, with enough of the path to be unique."""
    names = [path.name for path in paths]
    longest = max(len(path.parts) for path in paths)
    for parts in range(2, longest + 1):
        if len(set(names)) == len(set(paths)):
            break
        names = ["/".join(path.parts[-parts:]) for path in paths]

    numbered: list[str] = []
    for number, name in enumerate(names, start=1):
        if names.count(name) > 1:  # the same folder was given twice
            numbered.append(f"{name} ({number})")
        else:
            numbered.append(name)
    return numbered
