"""testbed sweep table, plot, report, query: show the results of a sweep so far."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable
from rich.text import Text

from testbed.cli.files import (
    PAGE_ENDINGS,
    FigureOption,
    PaperWidthOption,
    check_ending,
    write_file,
)
from testbed.cli.options import Format, FormatOption
from testbed.cli.output import UNFAITHFUL_STYLE, wide_console
from testbed.cli.terminal import new_console
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.report.grid import Grid, GridColumn
from testbed.report.paper.choice import PAPER_ENDINGS, choose_figures
from testbed.report.tables import render
from testbed.sweep.cells import cell, column_of, heading
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import key_columns
from testbed.sweep.outcome import Outcome
from testbed.sweep.outputs import PointRows, write_outputs

FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="folder of the sweep")]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="comma-separated columns \\[default: the swept keys and the key figures; csv: all]",
    ),
]
XOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="column for the horizontal axis")
]
YOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="measured column, for the vertical axis")
]
SeriesOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="draw a line for each value of COLUMN; with --heat: vertical axis"
    ),
]
FacetOption = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="draw a panel for each value of COLUMN")
]
PlotFileOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        metavar="FILE",
        help="page (.html) or figure for a paper (.pdf, .svg, .png) to write "
        "\\[default: plot.html in the folder]",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("table")(table)
    app.command("plot")(plot)
    app.command("report")(report)
    app.command("query")(query)


def table(
    folder: FolderArgument,
    columns: ColumnsOption = None,
    collectives: Annotated[
        bool, typer.Option("--collectives", help="show a row for each operation and size")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show a row for each point, complete or not."""
    from testbed.sweep.results import gather  # noqa: PLC0415 (polars)

    sweep = SweepDir.open(folder)
    point_rows, collective_rows = gather(sweep)
    results = collective_rows if collectives else point_rows
    outcome = Outcome.of(point_rows.columns, point_rows.rows())

    if columns is not None:
        chosen = _asked_columns(results.columns, columns)
    elif output is Format.TABLE:
        has_doubts = outcome.unfaithful > 0
        chosen = key_columns(results.columns, sweep.read_index(), has_doubts=has_doubts)
    else:
        chosen = results.columns
    print_warning(outcome, output)
    _print_measured(chosen, results.select(chosen).rows(), output)
    _print_sentence(outcome, output)


def _asked_columns(known: list[str], asked: str) -> list[str]:
    """Return the columns that the user selected.

    Raises:
        InputError: A column does not exist.
    """
    names = [column_of(name.strip(), known) for name in asked.split(",")]
    for name in names:
        if name not in known:
            remedy = suggest(name, known, "known columns")
            raise InputError(f"unknown column {name!r}", remedy=remedy)
    return names


def plot(
    folder: FolderArgument,
    x: XOption = None,
    y: YOption = None,
    series: SeriesOption = None,
    facet: FacetOption = None,
    heat: Annotated[bool, typer.Option("--heat", help="draw a heat map")] = False,
    out: PlotFileOption = None,
    figure: FigureOption = None,
    width: PaperWidthOption = "single",
) -> None:
    """Draw one figure, or without options all figures of the experiment."""
    from testbed.sweep.figures import draw  # noqa: PLC0415 (plotly)
    from testbed.sweep.page import figure_name, write_figures  # noqa: PLC0415
    from testbed.sweep.plots import PlotRequest, choose_plots  # noqa: PLC0415
    from testbed.sweep.results import gather  # noqa: PLC0415

    ending = PAGE_ENDINGS[0]
    if out is not None:
        ending = check_ending(out, (*PAPER_ENDINGS, *PAGE_ENDINGS), "--out")
    sweep = SweepDir.open(folder)
    points, collectives = gather(sweep)

    request = PlotRequest(x=x, y=y, series=series, facet=facet, heat=heat)
    chosen = choose_plots(sweep.read_index(), points, request)
    plots = {figure_name(number, plot): plot for number, plot in enumerate(chosen, start=1)}
    if figure is not None:
        if figure not in plots:
            remedy = suggest(figure, list(plots), "the figures")
            raise InputError(f"there is no figure {figure!r}", remedy=remedy)
        plots = {figure: plots[figure]}

    if out is None or ending in PAGE_ENDINGS:
        path = out or sweep.path / "plot.html"
        typer.echo(write_figures(path, list(plots.values()), points, collectives))
        return

    from testbed.report.paper.files import paper_bytes  # noqa: PLC0415 (matplotlib)

    drawn = {name: draw(plot, points, collectives) for name, plot in plots.items()}
    figures = choose_figures(drawn, None, ending)
    write_file(out, paper_bytes(figures, ending, width), "--out")
    typer.echo(out)


def report(folder: FolderArgument) -> None:
    """Regenerate the table and the page of a sweep."""
    sweep = SweepDir.open(folder)
    print_points(sweep, write_outputs(sweep), Format.TABLE)


def query(
    folder: FolderArgument,
    sql: Annotated[
        str,
        typer.Argument(
            metavar="SQL",
            help="query, such as: select delay, avg(time_us) from points group by all",
        ),
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Query the tables `points` and `collectives` in SQL (DuckDB's dialect)."""
    from testbed.sweep import results  # noqa: PLC0415

    sweep = SweepDir.open(folder)
    results.gather(sweep)
    columns, rows = results.query(sweep, sql)
    _print(columns, rows, output)


def print_points(sweep: SweepDir, points: PointRows, output: Format) -> None:
    """Print the table of the points, and for people also the paths of the files.

    Args:
        sweep: The sweep folder.
        points: Columns and rows of the table.
        output: Output format.
    """
    columns, rows = points
    outcome = Outcome.of(columns, rows)
    print_warning(outcome, output)
    if output is not Format.TABLE:
        _print(columns, rows, output)
        return
    has_doubts = outcome.unfaithful > 0
    chosen = key_columns(columns, sweep.read_index(), has_doubts=has_doubts)
    positions = [columns.index(name) for name in chosen]
    chosen_rows: list[list[Any]] = []
    for row in rows:
        chosen_rows.append([row[position] for position in positions])

    _print_measured(chosen, chosen_rows, output)
    files = Text(f"results: {sweep.path}\nreport:  {sweep.page}")
    wide_console().print(files, soft_wrap=True)
    _print_sentence(outcome, output)


def print_warning(outcome: Outcome, output: Format) -> None:
    """Print how many points are not faithful: before tables for people, else to standard error."""
    if not outcome.unfaithful:
        return
    console = wide_console() if output is Format.TABLE else new_console(stderr=True)
    console.print(Text(outcome.warning(), UNFAITHFUL_STYLE), soft_wrap=True)


def _print_sentence(outcome: Outcome, output: Format) -> None:
    """Print the number of points by outcome as the last line, for people."""
    if output is not Format.TABLE:
        return
    style = UNFAITHFUL_STYLE if outcome.unfaithful else ""
    wide_console().print(Text(outcome.sentence(), style), soft_wrap=True)


def _print_measured(columns: Sequence[str], rows: Sequence[Sequence[Any]], output: Format) -> None:
    """Print rows of a table of the sweep, for people with units."""
    if output is not Format.TABLE:
        _print(columns, rows, output)
        return

    cells: list[list[str]] = []
    for row in rows:
        texts = [cell(column, value) for column, value in zip(columns, row, strict=True)]
        cells.append(texts)
    wide_console().print(table_of([heading(column) for column in columns], cells))


def _print(columns: Sequence[str], rows: Sequence[Sequence[Any]], output: Format) -> None:
    if output is Format.CSV:
        typer.echo(csv_text(columns, rows))
        return
    if output is Format.JSON:
        documents = [dict(zip(columns, row, strict=True)) for row in rows]
        typer.echo(json.dumps(documents, indent=2, default=str))
        return

    cells: list[list[str]] = []
    for row in rows:
        cells.append([cell("", value) for value in row])
    wide_console().print(table_of(columns, cells))


def all_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all rows, in order of first appearance."""
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    return list(columns)


def cells_of(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, missing: Any = ""
) -> list[list[Any]]:
    """Return the values of rows by column; `missing` for a column that a row lacks."""
    cells: list[list[Any]] = []
    for row in rows:
        cells.append([row.get(column, missing) for column in columns])
    return cells


def table_of(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> RichTable:
    """Return a table for a terminal, with numeric columns aligned to the right."""
    styled: list[GridColumn] = []
    for position, name in enumerate(columns):
        texts = [row[position] for row in cells]
        holds_numbers = all(_is_number(text) for text in texts)
        column = GridColumn(name, holds_numbers)
        styled.append(column)

    grid = Grid("", styled, cells)
    return render(grid)


def _is_number(text: str) -> bool:
    """Return whether a cell is a number, with or without a unit, or empty."""
    number = r"[-+]?[0-9.]+(e[-+]?[0-9]+)?( (ns|us|ms|s|%))?"
    return text in ("", "-") or re.fullmatch(number, text) is not None
