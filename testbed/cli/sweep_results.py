"""testbed sweep table, plot, report, query: look at what a sweep has measured so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable
from rich.text import Text

from testbed.cli.options import Format, FormatOption
from testbed.cli.output import wide_console
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError, Place
from testbed.core.units import format_cell
from testbed.report.tables import Grid, GridColumn, render
from testbed.spec.base import suggest
from testbed.sweep.folder import SweepDir
from testbed.sweep.outputs import PointRows, write_outputs

Folder = Annotated[Path, typer.Argument(help="the sweep's folder")]
FIGURES = (
    "time_us",
    "bound_us",
    "efficiency",
    "step_ms",
    "utilisation",
    "final_loss",
    "time_to_loss_s",
    "wan_drops",
    "faithful",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("table")(table)
    app.command("plot")(plot)
    app.command("report")(report)
    app.command("query")(query)


def table(
    folder: Folder,
    columns: Annotated[
        str | None,
        typer.Option(
            help="which, with commas between \\[default: the swept keys and the key figures; csv: all]"
        ),
    ] = None,
    collectives: Annotated[
        bool, typer.Option("--collectives", help="a row for each operation and size")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show a row for each point, complete or not."""
    from testbed.sweep.results import gather  # noqa: PLC0415 (polars)

    sweep = SweepDir.open(folder)
    found = gather(sweep)[1 if collectives else 0]
    names = _chosen(found.columns, columns, sweep, every=output is not Format.TABLE)
    _print(names, found.select(names).rows(), output)


def _chosen(known: list[str], wanted: str | None, sweep: SweepDir, *, every: bool) -> list[str]:
    if wanted is not None:
        names = [name.strip() for name in wanted.split(",")]
        for name in names:
            if name not in known:
                raise InputError(
                    f"there is no column {name!r}", remedy=suggest(name, known, "the columns")
                )
        return names
    if every:
        return known
    index = sweep.read_index()
    shown = (
        *index.axes,
        *(["repeat"] if index.repeated else []),
        "state",
        "op",
        "bytes",
        *FIGURES,
    )
    return [name for name in dict.fromkeys(shown) if name in known]


def plot(
    folder: Folder,
    x: Annotated[
        str | None, typer.Option(help="a column of the table, for the horizontal axis")
    ] = None,
    y: Annotated[str | None, typer.Option(help="a column with what was measured")] = None,
    series: Annotated[
        str | None, typer.Option(help="a line for each value; of a heat map the vertical axis")
    ] = None,
    facet: Annotated[str | None, typer.Option(help="a panel for each value")] = None,
    heat: Annotated[bool, typer.Option("--heat", help="a heat map")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="the page; its buttons save SVG and PNG \\[default: plot.html in the folder]",
        ),
    ] = None,
) -> None:
    """Draw one figure; without options, those of the experiment."""
    from testbed.sweep.page import write_figures  # noqa: PLC0415 (plotly)
    from testbed.sweep.plots import PlotRequest, choose_plots  # noqa: PLC0415
    from testbed.sweep.results import gather  # noqa: PLC0415

    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"figures are written as a page, and {out} does not end in .html",
            place=Place(key="--out"),
            remedy=f"write {out.with_suffix('.html').name}, open it, and save the figure with its buttons",
        )
    sweep = SweepDir.open(folder)
    points, collectives = gather(sweep)
    request = PlotRequest(x=x, y=y, series=series, facet=facet, heat=heat)
    plots = choose_plots(sweep.read_index(), points, request)
    path = write_figures(out or sweep.path / "plot.html", plots, points, collectives)
    typer.echo(path)


def report(folder: Folder) -> None:
    """Make the table and the page of a sweep anew."""
    sweep = SweepDir.open(folder)
    show(sweep, write_outputs(sweep), Format.TABLE)


def query(
    folder: Folder,
    sql: Annotated[
        str, typer.Argument(help="such as: select delay, avg(time_us) from points group by all")
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Ask the tables `points` and `collectives` in SQL, in DuckDB's dialect."""
    from testbed.sweep.results import gather  # noqa: PLC0415
    from testbed.sweep.results import query as ask  # noqa: PLC0415

    sweep = SweepDir.open(folder)
    gather(sweep)
    _print(*ask(sweep, sql), output)


def show(sweep: SweepDir, found: PointRows, output: Format) -> None:
    """Print the table of the points, and where the rest is."""
    columns, rows = found
    if output is not Format.TABLE:
        _print(columns, rows, output)
        return
    names = _chosen(columns, None, sweep, every=False)
    places = [columns.index(name) for name in names]
    _print(names, [[row[place] for place in places] for row in rows], output)
    wide_console().print(Text(f"results: {sweep.path}\nreport:  {sweep.page}"), soft_wrap=True)


def _print(names: Sequence[str], rows: Sequence[Sequence[Any]], output: Format) -> None:
    if output is Format.CSV:
        typer.echo(csv_text(names, rows))
    elif output is Format.JSON:
        typer.echo(
            json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, default=str)
        )
    else:
        wide_console().print(
            table_of(names, [[format_cell(value) for value in row] for row in rows])
        )


def table_of(names: Sequence[str], cells: Sequence[Sequence[str]]) -> RichTable:
    """A table for a terminal."""
    numbers = [all(_is_number(row[i]) for row in cells) for i in range(len(names))]
    columns = [GridColumn(name, number) for name, number in zip(names, numbers, strict=True)]
    return render(Grid("", columns, cells))


def _is_number(text: str) -> bool:
    return (
        text in ("", "-")
        or text.replace(".", "", 1).replace("e", "").replace("-", "").replace("+", "").isdigit()
    )
