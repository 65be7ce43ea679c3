"""End and remove guests, control groups and folders that killed testbed processes left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed.core.leftovers import Kind, abandoned_notes
from testbed.execution.backend import BACKENDS
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status, write_status


def reap() -> list[Path]:
    """End guests and control groups of killed processes, and remove their temporary folders.

    Returns:
        The folders of interrupted runs and deployments. The status of each run is set to
        interrupted.
    """
    folders: list[Path] = []
    for left in abandoned_notes():
        for backend in BACKENDS:
            backend.clean_up(left)
        temporary = left.target(Kind.TEMPORARY)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        run_folder = left.target(Kind.RUN)
        if run_folder is not None and run_folder not in folders:
            folders.append(run_folder)
        left.remove()
    for folder in folders:
        _mark_interrupted(RunDir(folder))
    return folders


def _mark_interrupted(run: RunDir) -> None:
    """Remove harmful files from a run folder, and set the status of the run to interrupted."""
    status, _problems = read_status(run.status)
    if status is None:  # the folder of a deployment, or already removed
        return
    try:
        run.settle()
        if status.state == "running":
            status.state = "interrupted"
            status.reason = "the testbed was killed"
            status.faithful = False
            write_status(run.status, status)
    except OSError:  # the folder belongs to another user by now
        return
