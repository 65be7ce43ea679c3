"""testbed reproduce: repeat published measurements, and compare the results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from testbed.cli.files import write_file
from testbed.cli.options import Format, FormatOption
from testbed.cli.output import wide_console
from testbed.cli.sweep import JobsOption, parse_jobs
from testbed.core.csv_text import csv_text
from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.spec.experiment import Experiment
from testbed.spec.presets import PUBLISHED
from testbed.sweep.folder import SweepDir
from testbed.sweep.progress import PointProgress

if TYPE_CHECKING:
    from testbed.sweep.reproduction import Reproduction

ALL = "all"
HEADS = ["setting", "size", "published", "measured", "error"]


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="published tables, or all; without NAME, list them"),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            envvar="TESTBED_OUT", metavar="FOLDER", help="folder for the sweep of each table"
        ),
    ] = Path("results"),
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write the tables to a Markdown file, too"),
    ] = None,
    jobs: JobsOption = "auto",
    output: FormatOption = Format.TABLE,
) -> None:
    """Repeat published measurements, and print published and measured values.

    Each table is an experiment with a `published` block. Run the same command again to resume.
    """
    from testbed import api  # noqa: PLC0415 (as polars does)
    from testbed.sweep.reproduction import reproduction  # noqa: PLC0415 (polars: 0.3 s)

    experiments = _published_experiments()
    if not names:
        _list(experiments)
        return

    chosen = _chosen(names, experiments)
    count = parse_jobs(jobs)
    reproductions: list[Reproduction] = []
    for experiment in chosen:
        folder = out / experiment.name
        path = PUBLISHED.find(experiment.name)
        api.sweep(path, out=folder, jobs=count, progress=_show)
        assert experiment.published is not None
        found = reproduction(experiment.name, experiment.published, SweepDir.open(folder))
        reproductions.append(found)

    if page is not None:
        write_file(page, _markdown(reproductions).encode(), "--page")
    _print(reproductions, output)


def _show(progress: PointProgress) -> None:
    typer.echo(str(progress), err=True)


def _published_experiments() -> dict[str, Experiment]:
    """Return the published tables that come with the testbed, by name."""
    experiments: dict[str, Experiment] = {}
    for preset in PUBLISHED.presets():
        experiments[preset.name] = Experiment.load(preset.path)
    return experiments


def _chosen(names: list[str], experiments: dict[str, Experiment]) -> list[Experiment]:
    """Return the experiments of these names, all for `ALL`.

    Raises:
        InputError: A name is unknown.
    """
    if ALL in names:
        return list(experiments.values())

    for name in names:
        if name not in experiments:
            known = [*experiments, ALL]
            raise InputError(f"no published table {name!r}", remedy=suggest(name, known, "tables"))
    return [experiments[name] for name in names]


def _list(experiments: dict[str, Experiment]) -> None:
    """Print the names and titles of all published tables."""
    table = Table("name", "table", "source", box=None)
    for name, experiment in experiments.items():
        assert experiment.published is not None
        table.add_row(name, experiment.published.title, experiment.published.source)
    wide_console().print(table)


def _print(reproductions: list[Reproduction], output: Format) -> None:
    from testbed.sweep.reproduction import scored_errors  # noqa: PLC0415

    if output is Format.TABLE:
        console = wide_console()
        for found in reproductions:
            table = Table(*HEADS, title=found.published.title, title_justify="left", box=None)
            for row in found.rows():
                table.add_row(*row)
            console.print(table)
            typer.echo(_sentence(found.errors) + _not_counted(found))
        if len(reproductions) > 1:
            typer.echo(f"All tables: {_sentence(scored_errors(reproductions))}")
        return

    rows: list[list[object]] = []
    for found in reproductions:
        for cell in found.cells:
            unit = "bit/s" if found.published.are_rates else "ns"
            figures = [cell.published, cell.measured, cell.error]
            rows.append([found.name, cell.settings, cell.size_bytes, unit, *figures])
    heads = ["table", "setting", "bytes", "unit", "published", "measured", "error"]
    if output is Format.CSV:
        typer.echo(csv_text(heads, rows), nl=False)
    else:
        typer.echo(json.dumps([dict(zip(heads, row, strict=True)) for row in rows], indent=1))


def _sentence(errors: Sequence[float]) -> str:
    """Return the mean and the worst of errors as a sentence."""
    from testbed.sweep.reproduction import Score  # noqa: PLC0415

    score = Score.of(errors)
    if score is None:
        return "nothing was measured"
    values, mean, worst = score.row()
    return f"{values} values, mean of the absolute errors {mean}, worst {worst}"


def _not_counted(found: Reproduction) -> str:
    """Return why a table does not count, as the end of a sentence."""
    reason = found.published.not_counted
    return "" if reason is None else f" (not counted: {reason})"


def _scoreboard(reproductions: list[Reproduction]) -> list[str]:
    """Return the lines of a Markdown table with the score of each table."""
    from testbed.sweep.reproduction import Score, scored_errors  # noqa: PLC0415

    lines = ["| table | values | mean of the absolute errors | worst |", "|---|--:|--:|--:|"]
    for found in reproductions:
        score = Score.of(found.errors)
        if score is not None:
            mark = "" if found.published.not_counted is None else " (not counted)"
            texts = [f"`{found.name}`: {found.published.title}{mark}", *score.row()]
            lines.append(f"| {' | '.join(texts)} |")

    total = Score.of(scored_errors(reproductions))
    if total is not None:
        lines.append(f"| all | {' | '.join(total.row())} |")
    return lines


def _markdown(reproductions: list[Reproduction]) -> str:
    """Return the scores and all tables as Markdown, with their sources and protocols."""
    lines = [*_scoreboard(reproductions), ""]
    for found in reproductions:
        published = found.published
        lines += [f"### {published.title}", ""]
        lines += [f"Command: `testbed reproduce {found.name}`. Source: {published.source}.", ""]
        lines += [f"- Measured by the authors: {published.setting}", f"- {published.protocol}"]
        lines += [f"- chosen here: {choice}" for choice in published.chosen]
        if published.not_counted is not None:
            lines.append(f"- not counted: {published.not_counted}")
        lines += ["", f"| {' | '.join(HEADS)} |", "|---|--:|--:|--:|--:|"]
        for row in found.rows():
            lines.append(f"| {' | '.join(row)} |")
        lines += ["", f"{_sentence(found.errors)}.", ""]
    return "\n".join(lines)
