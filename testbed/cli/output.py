"""Output of commands on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from testbed.analysis.verdict import loop_text, verdict
from testbed.cli.options import Format
from testbed.cli.terminal import new_console
from testbed.core.csv_text import csv_text
from testbed.report.compare import faithful_text
from testbed.report.message_table import messages_grid
from testbed.report.tables import collectives_grid, render, terminal_tables, training_grid
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import DOUBTS, Problem, ProblemCode
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_object, read_summary

UNFAITHFUL_STYLE = "bold red"
FILE_WIDTH = 120  # columns, if standard output is not a terminal


def print_tables(folder: RunDir, output: Format, *, in_short: bool = False) -> None:
    """Print the measurements of a run.

    Args:
        folder: The run folder.
        output: Tables for people, one table as CSV, or all data as JSON.
        in_short: Print only the first line of the failure's reason; an error message has the rest.
    """
    status, _ = read_status(folder.status)
    if status is not None and status.misleads:  # the verdict says why a run is not complete
        print_unfaithful(status, output)
    if output is Format.JSON:
        print_json(folder)
        return
    summary, _ = read_summary(folder.summary)
    if output is Format.CSV:
        _print_csv(status, summary)
        return

    console = wide_console()
    for table in terminal_tables(summary):
        console.print(table)
    if summary.messages:
        console.print(render(messages_grid(summary)))
    if summary.loop is not None:
        console.print(Text(loop_text(summary.loop)))
    outcome = verdict(status, summary)
    if in_short and "\n" in outcome:
        outcome = f"{outcome.splitlines()[0].rstrip(':')} ..."
    console.print(Text(outcome))  # no markup: the reason may contain brackets
    for line in _doubts(status, summary):
        console.print(line)


def print_json(folder: RunDir, **more: object) -> None:
    """Print the outcome and the measurements of a run as one JSON object.

    Args:
        folder: The run folder.
        more: Further entries of the object.
    """
    status, _ = read_object(folder.status)
    summary, _ = read_object(folder.summary)
    document = {"status": status, "summary": summary, **more}
    typer.echo(json.dumps(document, indent=2))


def print_unfaithful(status: Status | None, output: Format, name: str = "this run") -> None:
    """Print that a run is not faithful, and why; to standard error unless for people."""
    if status is None or status.faithful is not False:
        return
    text = f"NOT FAITHFUL: {name} did not behave as planned"
    if status.doubts:
        text += f" ({', '.join(status.doubts)})"
    text += "; do not trust its times"
    console = wide_console() if output is Format.TABLE else new_console(stderr=True)
    console.print(Text(text, UNFAITHFUL_STYLE), soft_wrap=True)


def _print_csv(status: Status | None, summary: Summary) -> None:
    if summary.training is None:
        grid = collectives_grid(summary, for_programs=True)
    else:
        grid = training_grid(summary)
    header: list[str] = []
    for column in grid.columns:
        words = column.header.split()  # a line break precedes the unit
        header.append(" ".join(words))
    faithful = faithful_text(status)
    rows = [[*row, faithful] for row in grid.rows]
    typer.echo(csv_text([*header, "faithful"], rows))


def _doubts(status: Status | None, summary: Summary) -> Iterator[Text]:
    """Yield a line for each reason to distrust the measurements, and each missing part."""
    warnings = [] if status is None else status.warnings
    for warning in warnings:
        is_in_verdict = warning.code is ProblemCode.INCOMPLETE
        if not is_in_verdict and warning not in summary.problems:
            misleads = warning.code in DOUBTS
            yield _marked("timing unreliable:" if misleads else "warning:", warning)
    for problem in summary.problems:
        yield _marked("problem:", problem)


def _marked(mark: str, problem: Problem) -> Text:
    return Text.assemble((mark, "bold yellow"), f" {problem}")


def print_files(folder: RunDir, output: Format) -> None:
    """Print the paths of a run's files, after the tables for people.

    The last line says whether the run is not faithful.
    """
    if output is not Format.TABLE:
        return
    text = f"results: {folder.path}"
    if folder.report.is_file():
        text += f"\nreport:  {folder.report}"
    if folder.trace.is_file():
        text += f"\ntrace:   {folder.trace} (for ui.perfetto.dev)"
    wide_console().print(Text(text), soft_wrap=True)
    status, _ = read_status(folder.status)
    if status is not None and status.misleads:
        print_unfaithful(status, output)


def csv_of_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with equal keys as comma-separated values, with a header line."""
    if not rows:
        return ""
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def print_csv_rows(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as comma-separated values, with a header line also where there are no rows.

    Args:
        header: The keys of the rows, in the order of the columns.
        rows: The rows.
    """
    lines: list[list[Any]] = []
    for row in rows:
        cells = [row[name] for name in header]
        lines.append(cells)
    typer.echo(csv_text(header, lines))


def wide_console() -> Console:
    """Return a console on standard output, wide enough for tables without a terminal."""
    console = new_console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return new_console(width=FILE_WIDTH)
