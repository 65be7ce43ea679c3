"""testbed compare: runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.options import Format, FormatOption
from testbed.cli.report import print_csv, wide_console
from testbed.errors import InputError
from testbed.report.compare import Difference, measured, measured_grid, plan_differences, plan_grid
from testbed.report.tables import render
from testbed.rundir import RunDir, read_json

Html = Annotated[
    Path | None, typer.Option(envvar="TESTBED_HTML", help="write a page with tables and figures to this file as well")
]


def compare(
    runs: Annotated[list[Path], typer.Argument(help="two run folders or more; ratios are to the first")],
    html: Html = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what differs between runs: in what was done, and in what was measured."""
    from testbed.report.content import load  # noqa: PLC0415 (polars takes a while to import)

    if len(runs) < 2:
        raise InputError("compare needs at least two run folders")
    folders = [RunDir.open(path) for path in runs]
    missing: list[str] = []
    plans = [read_json(folder.plan, missing) for folder in folders]
    for folder in folders:
        read_json(folder.summary, missing)
    if missing:
        raise InputError(f"{missing[0]}", remedy="testbed report RUN makes summary.json anew")
    contents = [load(folder) for folder in folders]
    names = _names([folder.path for folder in folders])
    if html is not None:
        from testbed.report.compare_page import Side, compare_page  # noqa: PLC0415 (plotly, too)

        sides = [Side(*side) for side in zip(names, contents, plans, strict=True)]
        try:
            html.write_text(compare_page(sides))
        except OSError as error:
            raise InputError(
                f"cannot write {html}: {error.strerror}", remedy="choose another file with --html"
            ) from error
    differences, figures = plan_differences(plans), measured([content.summary for content in contents])
    _print(folders, names, differences, figures, output)
    if html is not None and output is Format.TABLE:
        typer.echo(f"page: {html}")


def _names(paths: list[Path]) -> list[str]:
    """The folders' names, with as much of their paths as it takes to tell them apart."""
    for parts in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _print(
    folders: list[RunDir], names: list[str], differences: list[Difference], figures: list[Difference], output: Format
) -> None:
    if output is Format.JSON:
        found = {"runs": [str(folder.path) for folder in folders]}
        rows = {"plan": [row.record() for row in differences], "measured": [row.record() for row in figures]}
        typer.echo(json.dumps(found | rows, indent=2))
        return
    for grid in (plan_grid(differences, names), measured_grid(figures, names)):
        if output is Format.CSV:
            print_csv([[column.header for column in grid.columns], *grid.rows])
        else:
            wide_console().print(render(grid))
