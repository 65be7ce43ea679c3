"""End and remove what killed processes of the testbed have left on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed.core.leftovers import Kind, abandoned_notes
from testbed.execution.backend import BACKENDS
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status, write_status


def reap() -> list[Path]:
    """End guests and control groups, and remove temporary folders, that killed processes left.

    Returns:
        The folders of runs and deployments in which something was going on. The status of each run
        now says that it was interrupted.
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
    """Make the folder of a run harmless, and say in its status that the run was interrupted."""
    status, _problems = read_status(run.status)
    if status is None:  # it is the folder of a deployment, or is there no more
        return
    try:
        run.settle()
        if status.state == "running":
            status.state = "interrupted"
            status.reason = "the testbed was killed"
            status.faithful = False
            write_status(run.status, status)
    except OSError:  # it is somebody else's by now
        return
