"""testbed report: tables and pages of earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.files import FigureOption, PaperWidthOption, check_figure_file, write_file
from testbed.cli.options import Format, FormatOption
from testbed.cli.output import print_files, print_tables
from testbed.core.errors import InputError, reading
from testbed.report.paper.choice import PaperWidth, choose_figures
from testbed.runfolder.folder import RunDir

RankTracesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        envvar="TESTBED_RANK_TRACES",
        help="write a timeline of each rank into FOLDER, for HolisticTraceAnalysis (one run only)",
    ),
]


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run folders")],
    rank_traces: RankTracesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="write only figures for a paper to a .pdf, .svg or .png (one run only)",
        ),
    ] = None,
    figure: FigureOption = None,
    width: PaperWidthOption = "single",
    output: FormatOption = Format.TABLE,
) -> None:
    """Regenerate the tables, the timeline and the page of runs, and print the tables."""
    check_figure_file(out, figure)
    if out is not None:
        _write_figures(runs, out, figure, width)
        return

    # Imported here to save `testbed run` 0.6 s.
    from testbed.report.load import load  # noqa: PLC0415
    from testbed.report.make import make_again, open_readable  # noqa: PLC0415
    from testbed.report.perfetto import write_rank_traces  # noqa: PLC0415

    if rank_traces is not None and len(runs) > 1:
        remedy = "run `testbed report` once for each run"
        raise InputError("--rank-traces requires exactly one run", remedy=remedy)
    folders = [open_readable(path) for path in runs]
    for folder in folders:
        with reading(folder.path):
            make_again(folder)
            if rank_traces is not None:
                write_rank_traces(folder, load(folder), rank_traces)
            print_tables(folder, output)
            print_files(folder, output)


def _write_figures(runs: list[Path], out: Path, name: str | None, width: PaperWidth) -> None:
    """Write figures of a run for a paper, from the tables in the run folder."""
    if len(runs) > 1:
        remedy = "run `testbed report` once for each run"
        raise InputError("--out requires exactly one run", remedy=remedy)
    folder = RunDir.open(runs[0])

    # Imported here because polars, plotly and matplotlib import slowly.
    from testbed.report.load import load  # noqa: PLC0415
    from testbed.report.paper.files import paper_bytes  # noqa: PLC0415
    from testbed.report.paper.run_figures import MAP, draw_map, draw_run  # noqa: PLC0415

    ending = out.suffix.lower()
    with reading(folder.path):
        content = load(folder)
        if name == MAP:
            image = draw_map(content, ending)
        else:
            figures = choose_figures(draw_run(content), name, ending, others=[MAP])
            image = paper_bytes(figures, ending, width)
    write_file(out, image, "--out")
    typer.echo(out)
