"""Carry out the points of a sweep on this machine, with several guests in parallel.

Each point has a process, forked from the fork server, so a crash of one point does not affect the
others. A point's process ends with the sweep, even if the sweep is killed, and the point's guest
ends with the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from testbed.core.errors import InputError
from testbed.core.units import format_size
from testbed.sweep import point_process
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import CONTEXT, main_module_hidden
from testbed.sweep.guest_pool import GuestNeeds, GuestPool, PooledGuest
from testbed.sweep.point_process import ExitStatus
from testbed.sweep.point_record import PointRecord, read_point_record
from testbed.sweep.points import PROCESS_MEMORY_BYTES, PlannedPoint
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Attempt, Finished

USABLE = 0.9  # fraction of the memory that is free when the sweep starts
GRACE_S = 30.0  # for a point to end after its time limit or an interrupt, before it is killed


@dataclass(frozen=True)
class Capacity:
    """Number of parallel guests of a sweep, and their total memory."""

    jobs: int
    memory_bytes: int


def capacity(jobs: int | None) -> Capacity:
    """Return the number of guests and the memory that this machine can offer now.

    Args:
        jobs: Number of parallel guests; None: one per CPU.
    """
    if jobs is None:
        jobs = len(os.sched_getaffinity(0))
    guest_memory_folder = os.environ.get("TMPDIR") or "/dev/shm"
    disk = shutil.disk_usage(guest_memory_folder)
    free_bytes = min(_available_memory_bytes(), disk.free)
    return Capacity(jobs, int(free_bytes * USABLE))


def _available_memory_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, *values = line.split()
        if name == "MemAvailable:":
            return int(values[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def side_by_side(points: Sequence[PlannedPoint], available: Capacity) -> int:
    """Return how many of `points` run in parallel if all are as large as the largest.

    Args:
        points: At least one point.
        available: Number of guests and memory for all points together.

    Raises:
        InputError: The largest point does not fit.
    """
    largest = max(points, key=lambda point: point.memory_bytes)
    fitting = available.memory_bytes // largest.memory_bytes
    if fitting == 0:
        raise InputError(
            f"the point {largest.name} needs {format_size(largest.memory_bytes, 3)} of memory, and "
            f"{format_size(available.memory_bytes, 3)} is available",
            remedy="close other programs, or use fewer hosts or smaller tensors; override the "
            "estimate with run.guest_memory",
        )

    return min(available.jobs, fitting, len(points))


@dataclass
class _PointProcess:
    """An attempt in flight; `guest` is a guest shared with earlier and later points."""

    attempt: Attempt
    process: ForkServerProcess
    guest: PooledGuest | None
    begin: float = field(default_factory=time.monotonic)

    @property
    def point(self) -> PlannedPoint:
        return self.attempt.point


class LocalExecutor:
    """An `Executor` of this machine, for use within `fork_server`."""

    def __init__(self, folder: SweepDir, available: Capacity, limits: Limits) -> None:
        self._folder = folder
        self._available = available
        self._limits = limits
        self._processes: list[_PointProcess] = []
        self._guests = GuestPool(folder)

    def start(self, points: Sequence[PlannedPoint]) -> int:
        """Boot the guests of the first points, while the fork server is still importing.

        Returns:
            The number of points that will run in parallel.

        Raises:
            InputError: The largest point does not fit the memory.
        """
        jobs = side_by_side(points, self._available)
        self._guests = GuestPool(self._folder, GuestNeeds.of(points))
        self._guests.start(points[:jobs])
        return jobs

    def has_room(self, point: PlannedPoint) -> bool:
        """Return whether a CPU and enough memory are free for `point`."""
        if not self._processes:
            return True
        if len(self._processes) >= self._available.jobs:
            return False
        needed_bytes = self._memory_bytes(point)
        for running in self._processes:
            needed_bytes += self._memory_bytes(running.point)
        return needed_bytes <= self._available.memory_bytes

    def submit(self, attempt: Attempt) -> None:
        """Fork the process of an attempt."""
        point = attempt.point
        guest = self._guests.lend(point)
        parent = self._parent_folder(guest)
        shutil.rmtree(parent / point.folder, ignore_errors=True)
        process = CONTEXT.Process(
            target=point_process.main,
            args=(self._folder.path, parent, point, self._limits, attempt.number),
            name=point.folder,
            # If a second signal interrupts `cancel`, the interpreter must not wait for processes.
            daemon=True,
        )

        with main_module_hidden():
            process.start()
        self._processes.append(_PointProcess(attempt, process, guest))

    def wait(self, timeout_s: float) -> list[Finished]:
        """Return the attempts whose process has ended; empty after `timeout_s` seconds."""
        sentinels = [running.process.sentinel for running in self._processes]
        connection.wait(sentinels, timeout_s)
        results: list[Finished] = []
        for running in list(self._processes):
            self._kill_if_overdue(running)
            if running.process.exitcode is not None:
                self._processes.remove(running)
                results.append(self._conclude(running))
        return results

    def release_idle(self) -> None:
        """Ask the idle guests to end."""
        self._guests.end_idle()

    def cancel(self) -> None:
        """End the processes in flight, and ask all guests to end."""
        for running in self._processes:
            running.process.terminate()

        deadline = time.monotonic() + GRACE_S
        for running in self._processes:
            running.process.join(max(0.0, deadline - time.monotonic()))
            if running.process.exitcode is None:
                running.process.kill()
                running.process.join()

        self._processes.clear()
        self._guests.end()

    def close(self) -> None:
        """Wait for the guests to end after `cancel`, and remove their leftovers."""
        self._guests.await_ends()
        self._folder.clear_running()

    def _memory_bytes(self, point: PlannedPoint) -> int:
        """Return the maximum memory of `point`, whose shared guest may be larger than the point."""
        return self._guests.memory_bytes(point) + PROCESS_MEMORY_BYTES

    def _parent_folder(self, guest: PooledGuest | None) -> Path:
        """Return the folder in which run folders are created."""
        if guest is None:
            return self._folder.running
        return guest.folder

    def _kill_if_overdue(self, running: _PointProcess) -> None:
        if self._limits.timeout_s is None:
            return
        deadline = running.begin + self._limits.timeout_s + GRACE_S
        if time.monotonic() > deadline:
            running.process.kill()

    def _conclude(self, running: _PointProcess) -> Finished:
        """Return the outcome of an ended process, and take back the guest of its point."""
        running.process.join()
        unsettled = None
        record = self._settled_record(running)
        if record is None:
            record = self._record_of_killed(running)
            unsettled = self._move_out(running)
        if running.guest is not None:
            sound = record.state == "completed"
            self._guests.take_back(running.guest, sound=sound)

        disk_full = running.process.exitcode == ExitStatus.DISK_FULL
        return Finished(running.attempt, record, unsettled, disk_full=disk_full)

    def _settled_record(self, running: _PointProcess) -> PointRecord | None:
        """Read the record that an ended process has written; None without a record."""
        status = running.process.exitcode
        if status == ExitStatus.COMPLETED:
            parent = self._folder.points
        elif status in (ExitStatus.FAILED, ExitStatus.DISK_FULL):
            parent = self._folder.failed
        else:
            return None
        return read_point_record(parent / running.point.folder)

    def _record_of_killed(self, running: _PointProcess) -> PointRecord:
        wall_seconds = time.monotonic() - running.begin
        return PointRecord(
            identity=running.point.identity,
            name=running.point.name,
            state="failed",
            reason=self._why_ended(running),
            wall_seconds=round(wall_seconds, 3),
            attempt=running.attempt.number,
        )

    def _move_out(self, running: _PointProcess) -> Path:
        """Move a killed point's run folder out of its guest's folder, which is removed later."""
        run_folder = self._folder.running / running.point.folder
        if running.guest is not None:
            present = running.guest.folder / running.point.folder
            with suppress(OSError):
                present.rename(run_folder)
        return run_folder

    def _why_ended(self, running: _PointProcess) -> str:
        status = running.process.exitcode or 0
        if status >= 0:
            reason = f"the point's process ended with status {status}"
        else:
            reason = f"the point's process was killed ({signal.Signals(-status).name})"

        if status == -signal.SIGKILL:
            reason += "; this machine may have run out of memory"

        last_line = _last_line(self._folder.log(running.point.folder))
        if last_line:
            reason += f": {last_line}"

        return reason


def _last_line(log: Path) -> str:
    """Return the last non-blank line of a file; empty if there is none."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    for line in reversed(lines):
        if line.strip():
            return line.strip()
    return ""
