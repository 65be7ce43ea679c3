"""A run as offline files of Weights & Biases; the only module that imports wandb.

`wandb sync FOLDER` uploads the files; an export reaches no network. Curves have their step and the
time on the run's clock as columns; the tables and the timeline are an artifact.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.core.errors import MachineError
from testbed.report.export.csv_files import write_csv
from testbed.report.export.scalars import run_scalars
from testbed.report.export.series import curves
from testbed.report.export.settings import flat_settings
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.runfolder.summary import read_summary

try:
    import wandb
except ImportError as error:
    raise MachineError(
        "wandb is not installed\n"
        "  run `pip install --editable '.[wandb]'` in the folder of the project"
    ) from error

PROJECT = "testbed"


def write_wandb(folder: RunDir, target: Path) -> list[Path]:
    """Write the settings, scalars, curves, tables and timeline of a run as offline files.

    Args:
        folder: The run folder.
        target: Existing folder for the files.

    Returns:
        The folder for `wandb sync`.

    Raises:
        OSError: A table cannot be read.
    """
    settings = wandb.Settings(
        mode="offline",
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        silent=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    run = wandb.init(
        project=PROJECT,
        name=folder.path.name,
        dir=str(target),
        config=flat_settings(folder.read_plan()),
        settings=settings,
    )
    try:
        _log(run, folder)
    finally:
        run.finish()
    return [Path(run.settings.sync_dir)]


def _log(run: wandb.Run, folder: RunDir) -> None:
    status, _problems = read_status(folder.status)
    summary, _problems = read_summary(folder.summary)
    run.summary.update(run_scalars(status, summary))

    defined: set[str] = set()
    for tag, value, step, time_s in curves(folder):
        if tag not in defined:
            defined.add(tag)
            run.define_metric(tag, step_metric=f"{tag}/step")
        run.log({tag: value, f"{tag}/step": step, f"{tag}/time_s": time_s})

    artifact = wandb.Artifact("run-folder", type="tables")
    with TemporaryDirectory() as tables:
        for path in write_csv(folder, Path(tables)):
            artifact.add_file(str(path), name=path.name)
        if folder.trace.is_file():
            artifact.add_file(str(folder.trace), name=folder.trace.name)
        run.log_artifact(artifact)
