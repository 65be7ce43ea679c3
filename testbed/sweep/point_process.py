"""The process of one point of a sweep on this machine."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from testbed.core.full_disk import is_disk_full
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import prepare_process
from testbed.sweep.points import PlannedPoint
from testbed.sweep.run_point import Limits, PointResult, carry_out


class ExitStatus(IntEnum):
    """Exit status of a point's process; the first two mean that the run folder is settled."""

    COMPLETED = 0
    FAILED = 1
    DISK_FULL = 3
    INTERRUPTED = 130


def main(sweep_path: Path, parent: Path, point: PlannedPoint, limits: Limits, attempt: int) -> None:
    """Run a point, settle its run folder, and end the process.

    Args:
        sweep_path: Path of the sweep folder.
        parent: Folder of the new run folder: running/, or the folder of a shared guest.
        point: The point to run.
        limits: Time limits of the run.
        attempt: Number of the attempt, from 1.
    """
    prepare_process()
    folder = SweepDir(sweep_path)
    try:
        status = _run(folder, parent, point, limits, attempt)
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    os._exit(status)


def _run(
    folder: SweepDir, parent: Path, point: PlannedPoint, limits: Limits, attempt: int
) -> ExitStatus:
    log = folder.log(point.folder)

    try:
        _print_to(log)
        shared = parent != folder.running
        result = carry_out(point, parent, limits, attempt, shared=shared)
        with suppress(OSError):
            log.replace(result.folder / "logs/point.log")
        return _settle(folder, result)
    except OSError as error:
        with suppress(OSError):  # the log is on the same disk
            print(f"{error.strerror}: {error.filename or parent}", file=sys.stderr)
        return ExitStatus.DISK_FULL if is_disk_full(error) else ExitStatus.FAILED


def _settle(folder: SweepDir, result: PointResult) -> ExitStatus:
    folder.settle(result.folder, result.record)
    if result.disk_full:
        return ExitStatus.DISK_FULL
    if result.record.state == "failed":
        return ExitStatus.FAILED
    return ExitStatus.COMPLETED


def _print_to(path: Path) -> None:
    """Redirect standard output and standard error of this process to a file."""
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
