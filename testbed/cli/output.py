"""What commands print on standard output."""

from __future__ import annotations

import json
import os

import typer
from rich.console import Console
from rich.text import Text

from testbed.analysis.verdict import verdict
from testbed.cli.options import Format
from testbed.core.csv_text import csv_text
from testbed.report.tables import collectives_grid, terminal_tables, training_grid
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_object, read_summary

FILE_WIDTH = 120  # columns of a console that is not a terminal


def print_tables(folder: RunDir, output: Format, *, in_short: bool = False) -> None:
    """Print what a run measured; `in_short` only the first line of why it failed, where an error
    will tell it all.
    """
    if output is Format.JSON:
        status_document, _ = read_object(folder.status)
        summary_document, _ = read_object(folder.summary)
        document = {"status": status_document, "summary": summary_document}
        typer.echo(json.dumps(document, indent=2))
        return
    status, _ = read_status(folder.status)
    summary, _ = read_summary(folder.summary)
    if output is Format.CSV:
        grid = collectives_grid(summary) if summary.training is None else training_grid(summary)
        header = [" ".join(column.header.split()) for column in grid.columns]
        typer.echo(csv_text(header, grid.rows))
        return
    console = wide_console()
    for table in terminal_tables(summary):
        console.print(table)
    outcome = verdict(status, summary)  # its reason is a program's, with brackets of all kinds
    if in_short and "\n" in outcome:
        outcome = f"{outcome.splitlines()[0].rstrip(':')} ..."
    console.print(Text(outcome))
    warnings = [] if status is None else status.warnings
    for warning in warnings:
        if warning not in summary.problems and warning.code is not ProblemCode.INCOMPLETE:
            console.print(Text.assemble(("not faithful:", "bold yellow"), f" {warning}"))
    for problem in summary.problems:
        console.print(Text.assemble(("missing:", "bold yellow"), f" {problem}"))


def print_files(folder: RunDir, output: Format) -> None:
    """Print where a run's files are, after the tables for people."""
    if output is not Format.TABLE:
        return
    console = wide_console()
    lines = [f"results: {folder.path}", f"report:  {folder.report}"]
    if folder.trace.is_file():
        lines.append(f"trace:   {folder.trace} (for ui.perfetto.dev)")
    console.print(Text("\n".join(lines)), soft_wrap=True)


def wide_console() -> Console:
    """Standard output; where it is no terminal, wide enough for every table."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=FILE_WIDTH)
