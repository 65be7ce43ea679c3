"""testbed compare: runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.options import Format, FormatOption
from testbed.cli.report import wide_console
from testbed.errors import InputError
from testbed.report.compare import measured, measured_grid, plan_differences, plan_grid
from testbed.report.tables import render
from testbed.rundir import RunDir, read_json


def compare(
    runs: Annotated[list[Path], typer.Argument(help="two run folders or more; ratios are to the first")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what differs between runs: in what was done, and in what was measured."""
    if len(runs) < 2:
        raise InputError("compare needs at least two run folders")
    folders = [RunDir.open(path) for path in runs]
    missing: list[str] = []
    plans = [read_json(folder.plan, missing) for folder in folders]
    summaries = [read_json(folder.summary, missing) for folder in folders]
    if missing:
        raise InputError(f"{missing[0]}", remedy="testbed report RUN makes summary.json anew")
    differences, figures = plan_differences(plans), measured(summaries)
    names = [folder.path.name for folder in folders]
    if output is Format.JSON:
        found = {"runs": [str(folder.path) for folder in folders]}
        rows = {"plan": [row.record() for row in differences], "measured": [row.record() for row in figures]}
        typer.echo(json.dumps(found | rows, indent=2))
        return
    grids = [plan_grid(differences, names), measured_grid(figures, names)]
    if output is Format.CSV:
        for grid in grids:
            typer.echo(",".join(column.header for column in grid.columns))
            for cells in grid.rows:
                typer.echo(",".join(cells))
        return
    console = wide_console()
    for grid in grids:
        console.print(render(grid))
