"""Carry out one point in the calling process: a child of a sweep, or a worker of a cluster."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.core.errors import DiskFull, RunError, TestbedError
from testbed.core.full_disk import has_space, is_disk_full
from testbed.execution.launch import launch
from testbed.execution.limits import RunLimits
from testbed.execution.progress import SilentProgress
from testbed.guest.resident import resident_cpu_seconds
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import Status
from testbed.sweep.folder import PLOTLY_OF_POINTS
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint


@dataclass(frozen=True)
class Limits:
    """Wall time limits of a point in seconds; None: no limit."""

    timeout_s: float | None = None


@dataclass(frozen=True)
class PointResult:
    """Outcome of a point, and its run folder; `disk_full`: a write failed for lack of space."""

    folder: Path
    record: PointRecord
    disk_full: bool


def carry_out(
    point: PlannedPoint, parent: Path, limits: Limits, attempt: int = 1, *, shared: bool = False
) -> PointResult:
    """Run a point in a new folder below `parent`, and return its result even if the run fails.

    Args:
        point: The point to run.
        parent: Existing folder in which the run folder is created.
        limits: Time limits of the run.
        attempt: Number of the attempt, from 1.
        shared: Whether `parent` is the folder of a running guest that carries out several points.

    Raises:
        KeyboardInterrupt: The run was interrupted; the caller removes the run folder.
    """
    guest_folder = parent if shared else None
    run_folder = parent / point.folder
    begin = time.monotonic()
    cpu_before = _cpu_seconds(guest_folder)
    status, reason, disk_full = _attempt(point, run_folder, limits, guest_folder)
    wall_seconds = time.monotonic() - begin
    cpu_seconds = _cpu_seconds(guest_folder) - cpu_before
    state: Literal["completed", "failed"] = "failed" if reason else "completed"
    record = PointRecord(
        identity=point.identity,
        name=point.name,
        state=state,
        reason=reason,
        wall_seconds=round(wall_seconds, 3),
        cpu_seconds=round(cpu_seconds, 2),
        attempt=attempt,
        faithful=None if status is None else status.faithful,
        doubts=[] if status is None else status.doubts,
    )

    return PointResult(run_folder, record, disk_full)


def _attempt(
    point: PlannedPoint, run_folder: Path, limits: Limits, guest_folder: Path | None
) -> tuple[Status | None, str, bool]:
    """Run a point, even if the run fails.

    Returns:
        Status of a run that did not raise an error, reason of the failure (empty for a completed
        run), and whether the disk was full.
    """
    try:
        status = _run(point, run_folder, limits, guest_folder)
        return status, status.reason, False
    except TestbedError as error:
        # The guest reports a full disk only as message text.
        full = isinstance(error, DiskFull) or not has_space(run_folder.parent)
        return None, str(error), full
    except MemoryError:
        return None, "this machine ran out of memory", False
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or run_folder}"
        return None, reason, is_disk_full(error)
    except Exception as error:  # one point must not stop the others
        with suppress(OSError):
            traceback.print_exc()
        return None, f"{type(error).__name__}: {error} (a bug in testbed)", False


def _run(
    point: PlannedPoint, run_folder: Path, limits: Limits, guest_folder: Path | None
) -> Status:
    """Run a point, and return its status."""
    run = RunDir.create(run_folder)

    with _time_limit(limits.timeout_s):
        return launch(
            point.plan,
            run,
            spec=point.spec,
            command=point.command,
            limits=RunLimits(*point.run.limits_s),
            progress=SilentProgress(),
            resident_guest=guest_folder,
            shared_plotly=PLOTLY_OF_POINTS,
        )


def _cpu_seconds(guest_folder: Path | None) -> float:
    """Return the CPU time of this process, its ended children, and a shared guest."""
    seconds = 0.0 if guest_folder is None else resident_cpu_seconds(guest_folder)
    for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(processes)
        seconds += usage.ru_utime + usage.ru_stime
    return seconds


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `RunError` in the block after `seconds`; for use in the main thread."""
    if seconds is None:
        yield
        return

    def expire(number: int, frame: object) -> None:
        raise RunError(f"the point took longer than {seconds:g} s (--timeout)")

    handler = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
