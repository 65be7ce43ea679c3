"""Carry out one point, in whatever process this is: in a child of the sweep here, or in a worker of
a cluster.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import MachineError, RunError, TestbedError
from testbed.execution.launch import launch
from testbed.guest.resident import series_cpu_seconds
from testbed.runfolder.folder import RunDir
from testbed.sweep.folder import Record, SweepDir
from testbed.sweep.points import PlannedPoint

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SPACE_TEXTS = tuple(os.strerror(number) for number in NO_SPACE)


@dataclass(frozen=True)
class Limits:
    """What a point may take of wall time, in seconds; None: as long as it will."""

    timeout_s: float | None = None


class _Silent:
    """A point has no display of its own."""

    def building(self, what: str, part: float) -> None:
        pass

    def stage(self, name: str) -> None:
        pass

    def advance(self, done: int, total: int, unit: str) -> None:
        pass

    def measured(self) -> None:
        pass


def carry_out(
    point: PlannedPoint, parent: Path, limits: Limits, attempt: int = 1, *, series: bool = False
) -> tuple[Path, Record]:
    """Run `point` in a new folder below `parent`; the folder, and how it ended, however it ended.

    Args:
        series: `parent` is that of a guest that carries out several points.

    Raises:
        KeyboardInterrupt: it was interrupted; its folder is to be removed.
    """
    guest = parent if series else None
    begin, cpu = time.monotonic(), _cpu_seconds(guest)
    path = parent / point.folder
    try:
        reason = _run(point, path, limits, guest)
    except TestbedError as error:
        reason = str(error)
    except MemoryError:
        reason = "this machine's memory ran out"
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or path}"
    except Exception as error:  # one point must not stop the others
        with suppress(OSError):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error} (a fault of the testbed)"
    state, wall, cpu = (
        ("failed" if reason else "completed"),
        time.monotonic() - begin,
        _cpu_seconds(guest) - cpu,
    )
    return path, Record(
        point.identity, point.name, state, reason, round(wall, 3), round(cpu, 2), attempt
    )


def _cpu_seconds(guest: Path | None) -> float:
    """Of this process and of all that it has waited for, and of a guest that it shares."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return own + (series_cpu_seconds(guest) if guest else 0.0)


def _run(point: PlannedPoint, path: Path, limits: Limits, guest: Path | None) -> str:
    """Why the run failed; empty if it did not."""
    run = RunDir.create(path)
    stall_limit_s = point.run.stall_limit / 1e9
    with _time_limit(limits.timeout_s):
        outcome = launch(
            point.plan,
            run,
            spec=point.spec,
            command=point.command,
            stall_limit_s=stall_limit_s,
            progress=_Silent(),
            series=guest,
        )
    return outcome.reason


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `RunError` in this, the main thread, when the time is up."""
    if seconds is None:
        yield
        return

    def expire(number: int, frame: object) -> None:
        raise RunError(f"the point took longer than {seconds:g} s (--timeout)")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_disk_full(reason: str) -> bool:
    """Whether a point failed because nothing more could be written."""
    return any(text in reason for text in NO_SPACE_TEXTS)


def disk_full(folder: SweepDir, done: int) -> MachineError:
    """The error that ends a sweep whose disk is full."""
    return MachineError(
        f"the disk of {folder.path} is full: the sweep was ended\n"
        f"  {done} points are complete and kept; make space, and give the same command again to go on"
    )
