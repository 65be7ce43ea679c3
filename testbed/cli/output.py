"""What commands print on standard output."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.text import Text

from testbed.analysis.verdict import verdict
from testbed.cli.options import Format
from testbed.report.tables import (
    collectives_grid,
    collectives_table,
    fidelity_table,
    periods_table,
    training_grid,
    training_table,
    transfers_table,
    wan_table,
)
from testbed.runfolder.folder import RunDir, read_json
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary

FILE_WIDTH = 120  # columns of a console that is not a terminal


def print_tables(folder: RunDir, output: Format, *, in_short: bool = False) -> None:
    """Print what a run measured; `in_short` only the first line of why it failed, where an error
    will tell it all.
    """
    summary = read_json(folder.summary, [])
    status = read_json(folder.status, [])
    if output is Format.JSON:
        typer.echo(json.dumps({"status": status, "summary": summary}, indent=2))
        return
    if output is Format.CSV:
        grid = training_grid(summary) if summary.get("training") else collectives_grid(summary)
        print_csv([[" ".join(column.header.split()) for column in grid.columns], *grid.rows])
        return
    console = wide_console()
    if summary.get("collectives"):
        console.print(collectives_table(summary))
    if summary.get("training"):
        console.print(training_table(summary))
    if summary.get("wan"):
        console.print(wan_table(summary))
    if summary.get("periods"):
        console.print(periods_table(summary))
    if summary.get("transfers"):
        console.print(transfers_table(summary))
    if not all(pair.get("ok") for pair in summary.get("fidelity", [])):
        console.print(fidelity_table(summary))
    typed_status, _problems = read_status(folder.status)
    typed_summary, _problems = read_summary(folder.summary)
    # The reason in the outcome is a program's, with brackets of all kinds.
    outcome = verdict(typed_status, typed_summary)
    if in_short and "\n" in outcome:
        outcome = f"{outcome.splitlines()[0].rstrip(':')} ..."
    console.print(Text(outcome))
    problems = typed_summary.problems
    for warning in [] if typed_status is None else typed_status.warnings:
        if warning not in problems and warning.code is not ProblemCode.INCOMPLETE:
            console.print(Text.assemble(("not faithful:", "bold yellow"), f" {warning}"))
    for problem in problems:
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


def print_csv(rows: Iterable[Sequence[str]]) -> None:
    """Print `rows` as comma-separated values."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    typer.echo(text.getvalue(), nl=False)


def wide_console() -> Console:
    """Standard output; where it is no terminal, wide enough for every table."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=FILE_WIDTH)
