"""testbed compare: runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from testbed.cli.options import Format, FormatOption
from testbed.cli.output import wide_console
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError
from testbed.report.compare import Difference, measured, measured_grid, plan_differences, plan_grid
from testbed.report.tables import render
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import Problem
from testbed.runfolder.summary import read_object, read_summary

if TYPE_CHECKING:
    from testbed.report.load import Content

Html = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_HTML", help="write a page with tables and figures to this file as well"
    ),
]


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="two run folders or more; ratios are to the first")
    ],
    html: Html = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what differs between runs: in what was done, and in what was measured."""
    from testbed.report.load import load  # noqa: PLC0415 (polars takes a while to import)

    if len(runs) < 2:
        raise InputError("compare needs at least two run folders")
    folders = [RunDir.open(path) for path in runs]
    plans = [_read_plan(folder.plan) for folder in folders]
    for folder in folders:
        _, problems = read_summary(folder.summary)
        _refuse(folder.summary, problems, "testbed report RUN makes it anew")
    contents = [load(folder) for folder in folders]
    names = _names([folder.path for folder in folders])
    differences = plan_differences(plans)
    figures = measured([content.summary for content in contents])
    if html is not None:
        _write_page(html, names, contents, plans)
    _print(folders, names, differences, figures, output)
    if html is not None and output is Format.TABLE:
        typer.echo(f"page: {html}")


def _read_plan(path: Path) -> dict[str, Any]:
    """Read plan.json as it is: plans of other versions can be compared too."""
    document, problems = read_object(path)
    _refuse(path, problems, "without it nothing is known of the run")
    return document


def _refuse(path: Path, problems: list[Problem], remedy: str) -> None:
    """Raise InputError if there is a problem with a file."""
    if problems:
        raise InputError(f"{path.parent}: {problems[0]}", remedy=remedy)


def _write_page(
    path: Path, names: list[str], contents: list[Content], plans: list[dict[str, Any]]
) -> None:
    from testbed.report.compare_page import Side, compare_page  # noqa: PLC0415 (as plotly does)

    html = compare_page([Side(*side) for side in zip(names, contents, plans, strict=True)])
    try:
        path.write_bytes(html)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", remedy="choose another file with --html"
        ) from error


def _names(paths: list[Path]) -> list[str]:
    """The folders' names, with as much of their paths as it takes to tell them apart."""
    for parts in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _print(
    folders: list[RunDir],
    names: list[str],
    differences: list[Difference],
    figures: list[Difference],
    output: Format,
) -> None:
    if output is Format.JSON:
        found = {"runs": [str(folder.path) for folder in folders]}
        rows = {
            "plan": [row.record() for row in differences],
            "measured": [row.record() for row in figures],
        }
        typer.echo(json.dumps(found | rows, indent=2))
        return
    for grid in (plan_grid(differences, names), measured_grid(figures, names)):
        if output is Format.CSV:
            typer.echo(csv_text([column.header for column in grid.columns], grid.rows))
        else:
            wide_console().print(render(grid))
