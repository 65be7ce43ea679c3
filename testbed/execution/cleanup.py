"""End and remove guests, control groups and folders that killed testbed processes left behind."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from testbed.core.leftovers import Kind, abandoned_notes
from testbed.execution.backend import BACKENDS
from testbed.runfolder.files import replacing_alone
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import commit_status, read_status, release_room


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
    try:
        release_room(run.status)
        with replacing_alone(run.path):  # removes files that were being written
            pass
        status, _problems = read_status(run.status)
        if status is None:  # the folder of a deployment, or of a run that had not begun
            return
        with suppress(OSError):  # `RunDir.open` refuses what is left
            run.settle()
        if status.state == "running":
            status.state = "interrupted"
            status.reason = "the testbed was killed"
            status.faithful = False
            commit_status(run.status, status)
    except OSError:  # the folder has been removed, or belongs to another user by now
        return
