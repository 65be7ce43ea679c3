"""testbed export: a run in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.report.export.choice import ExportFormat, export_run
from testbed.runfolder.folder import RunDir

ToOption = Annotated[
    ExportFormat,
    typer.Option(
        "--to",
        help="files of comma-separated values, an event file of TensorBoard, Chakra execution "
        "traces, offline files of Weights & Biases, or a store of MLflow",
    ),
]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder")],
    to: ToOption,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="folder for the files \\[default: a folder in the run's, named by the format]",
        ),
    ] = None,
) -> None:
    """Write the measurements of a run for other tools, and print the paths of the files."""
    for path in export_run(RunDir.open(run), to, out):
        typer.echo(path)
