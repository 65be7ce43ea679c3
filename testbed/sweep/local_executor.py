"""Carry out the points of a sweep on this machine, several guests side by side.

Each point has a process, forked from the fork server, and so a crash takes no other point with it.
A point's process ends with the sweep, however that ends, and its guest ends with the process.
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

USABLE = 0.9  # part of the memory that is free when the sweep begins
GRACE_S = 30.0  # for a point to end by itself after its time limit, or after an interrupt


@dataclass(frozen=True)
class Capacity:
    """What the guests of a sweep may use together: their number, and memory."""

    jobs: int
    memory_bytes: int


def capacity(jobs: int | None) -> Capacity:
    """Measure what this machine has now.

    Args:
        jobs: guests side by side; None: one for each CPU.
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
    """Count how many of `points` run at once, if all are as large as the largest.

    Args:
        points: at least one.
        available: what they may use together.

    Raises:
        InputError: not even one fits.
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
    """An attempt in flight; `guest` is one that it shares with points before and after it."""

    attempt: Attempt
    process: ForkServerProcess
    guest: PooledGuest | None
    begin: float = field(default_factory=time.monotonic)

    @property
    def point(self) -> PlannedPoint:
        return self.attempt.point


class LocalExecutor:
    """An `Executor` of this machine, to be used within `fork_server`."""

    def __init__(self, folder: SweepDir, available: Capacity, limits: Limits) -> None:
        self._folder = folder
        self._available = available
        self._limits = limits
        self._processes: list[_PointProcess] = []
        self._guests = GuestPool(folder)

    def start(self, points: Sequence[PlannedPoint]) -> int:
        """Boot the guests of the first points, while the fork server is still importing.

        Returns:
            How many points will run at once.

        Raises:
            InputError: the largest point does not fit the memory.
        """
        jobs = side_by_side(points, self._available)
        self._guests = GuestPool(self._folder, GuestNeeds.of(points))
        self._guests.start(points[:jobs])
        return jobs

    def has_room(self, point: PlannedPoint) -> bool:
        """Whether a CPU and enough memory are free for `point`."""
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
        """Give the attempts whose process has ended; returns after `timeout_s` if none has."""
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
        """Have guests end that no point uses."""
        self._guests.end_idle()

    def cancel(self) -> None:
        """End the processes in flight, and have all guests end."""
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
        """After `cancel`: wait for the end of the guests, and remove what they left."""
        self._guests.await_ends()
        self._folder.clear_running()

    def _memory_bytes(self, point: PlannedPoint) -> int:
        """Give the most memory that `point` takes here, where its guest may be a larger one."""
        return self._guests.memory_bytes(point) + PROCESS_MEMORY_BYTES

    def _parent_folder(self, guest: PooledGuest | None) -> Path:
        """Give the folder in which a run folder begins."""
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
        """Report how an ended process left its point, and take back the guest that it was lent."""
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
        """Read the record that an ended process has left; None if it left none."""
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
        """Move the run folder of a killed process out of its guest's, which ends with all in it."""
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
    """Give the last line of a file that is not blank; empty if there is none."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    for line in reversed(lines):
        if line.strip():
            return line.strip()
    return ""
