"""testbed report: tables and page of runs that were made before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from testbed.cli.options import Format, FormatOption
from testbed.cli.output import print_files, print_tables
from testbed.core.errors import InputError
from testbed.runfolder.folder import RunDir

RankTraces = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="TESTBED_RANK_TRACES",
        help="write a timeline of each rank into this folder, for HolisticTraceAnalysis; of one run",
    ),
]


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    rank_traces: RankTraces = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make the tables, the timeline and the page of runs anew, and print them."""
    from testbed.analysis.summarize import collect  # noqa: PLC0415 (0.6 s, which `testbed run` need not wait for)
    from testbed.report.load import load  # noqa: PLC0415
    from testbed.report.page import write_page  # noqa: PLC0415
    from testbed.report.perfetto import write_rank_traces  # noqa: PLC0415

    if rank_traces is not None and len(runs) > 1:
        raise InputError(
            "--rank-traces is for one run", remedy="call testbed report once for each run"
        )
    for folder in [_readable(path) for path in runs]:
        collect(folder)
        write_page(folder)
        if rank_traces is not None:
            write_rank_traces(folder, load(folder), rank_traces)
        print_tables(folder, output)
        print_files(folder, output)


def _readable(path: Path) -> RunDir:
    """The run folder `path`, of whose plan this version can make the tables."""
    folder = RunDir.open(path)
    try:
        folder.read_plan()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder.plan} cannot be read: it is damaged, or of another version of the testbed "
            f"({str(error).splitlines()[0]})\n  nothing was changed; {folder.report} is as it was"
        ) from error
    return folder
