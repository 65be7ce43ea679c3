"""The formats of an export, and how each is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from testbed.core.errors import InputError, Place, reading
from testbed.core.suggestions import suggest
from testbed.runfolder.folder import RunDir

ExportFormat = Literal["csv", "tensorboard", "chakra", "wandb", "mlflow"]


def export_run(folder: RunDir, to: str, target: Path | None) -> list[Path]:
    """Write a run in the format of another tool.

    Args:
        folder: The run folder.
        to: One of `ExportFormat`.
        target: Folder for the files, which is created; None: a folder of the format's name in the
            run folder.

    Returns:
        Paths of the files.

    Raises:
        InputError: The format is unknown, the run has no tables, or the folder cannot be created.
        MachineError: The library of the format is not installed.
        OSError: A file cannot be written.
    """
    if to not in get_args(ExportFormat):
        remedy = suggest(to, get_args(ExportFormat), "formats")
        raise InputError(f"unknown format {to!r}", place=Place("--to"), remedy=remedy)
    if not folder.summary.is_file():
        remedy = f"run `testbed report {folder.path}` to create it"
        raise InputError("no summary.json", place=Place(folder.path), remedy=remedy)

    if to != "csv" and folder.jobs.is_dir():
        what = f"a run with several jobs has no single {to} export"
        remedy = f"export a job, such as {next(folder.jobs.iterdir(), folder.jobs)}"
        raise InputError(what, place=Place(folder.path), remedy=remedy)

    # Imported here because polars and the libraries of the formats import slowly.
    if to == "csv":
        from testbed.report.export.csv_files import write_csv as write  # noqa: PLC0415
    elif to == "chakra":
        from testbed.report.export.chakra import write_chakra as write  # noqa: PLC0415
    elif to == "wandb":
        from testbed.report.export.wandb_files import write_wandb as write  # noqa: PLC0415
    elif to == "mlflow":
        from testbed.report.export.mlflow_store import write_mlflow as write  # noqa: PLC0415
    else:
        from testbed.report.export.tensorboard import (  # noqa: PLC0415
            write_tensorboard as write,
        )

    path = target or folder.path / to
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot create {path}: {error.strerror}"
        raise InputError(what, remedy="choose another folder with --out") from error
    with reading(folder.path):
        return write(folder, path)
