"""Run the points of a sweep on this machine, many guests side by side.

Each point has a process of its own, forked from one that has imported everything (multiprocessing's
fork server), so that a point costs no imports and a crash takes no other point with it. A point's
process ends with the sweep, however that ends, and its guest ends with it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Protocol

from testbed.core.errors import InputError
from testbed.core.linux import die_with_parent
from testbed.core.units import format_size
from testbed.execution.launch import may_join_series
from testbed.guest.boot import removed_if_killed
from testbed.sweep import STARTER
from testbed.sweep.folder import Record, SweepDir, read_record
from testbed.sweep.guest_pool import Guests, Kept, Shape, fall_first
from testbed.sweep.points import PlannedPoint
from testbed.sweep.run_point import NO_SPACE, Limits, carry_out, disk_full, is_disk_full

MIB = 2**20
PROCESS_MEMORY = 300 * MIB  # of a point outside its guest: Python, and the tables it makes
USABLE = 0.9  # part of the memory that is free when the sweep begins
POLL_S = 0.5
GRACE_S = 30.0  # for a point to end by itself after its time limit, or after an interrupt
PRELOAD = [
    "testbed.sweep.fork_server",
    "testbed.sweep.local_executor",
    "testbed.sweep.run_point",
    "testbed.analysis.summarize",
    "testbed.report.page",
    "testbed.sweep.results",
    "testbed.sweep.page",
    "testbed.sweep.finish",
    "testbed.sweep.preloaded",
]
FULL = 3  # exit status of a point's process that could not write its folder for want of space


class Events(Protocol):
    """What a display is told; `jobs` is how many points run at once, as far as is known."""

    jobs: int

    def started(self, point: PlannedPoint, attempt: int) -> None:
        """A point begins."""

    def ended(self, point: PlannedPoint, record: Record, again: bool) -> None:
        """A point has ended; `again`: it failed and is tried once more."""

    def tick(self) -> None:
        """Some time has passed."""


@dataclass(frozen=True)
class Policy:
    """What is done about slow and failing points."""

    limits: Limits = field(default_factory=Limits)
    retries: int = 0
    fail_fast: bool = False


@dataclass(frozen=True)
class Capacity:
    """What the guests of a sweep may use together."""

    jobs: int
    memory_bytes: int


def need_bytes(point: PlannedPoint) -> int:
    """The most memory that a point takes: the guest's, which its kernel cannot exceed, and its
    process's.
    """
    return point.plan.guest_memory_bytes + PROCESS_MEMORY


def capacity(jobs: int | None) -> Capacity:
    """What this machine has: `jobs` guests side by side, by default one for each CPU, within the
    memory now free.
    """
    place = Path(os.environ.get("TMPDIR") or "/dev/shm")
    free = min(_available_memory(), shutil.disk_usage(place).free)
    return Capacity(jobs or len(os.sched_getaffinity(0)), int(free * USABLE))


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def side_by_side(points: Sequence[PlannedPoint], limit: Capacity) -> int:
    """How many of `points` run at once, if all are as large as the largest.

    Raises:
        InputError: not even one.
    """
    largest = max(points, key=need_bytes)
    fit = limit.memory_bytes // need_bytes(largest)
    if fit == 0:
        raise InputError(
            f"the point {largest.name} needs {format_size(need_bytes(largest), 3)} of memory, and "
            f"{format_size(limit.memory_bytes, 3)} can be used now",
            remedy="close other programs, or use fewer hosts or smaller tensors; run.guest_memory sets it by hand",
        )
    return min(limit.jobs, fit, len(points))


@dataclass
class _Running:
    point: PlannedPoint
    attempt: int
    process: ForkServerProcess
    guest: Kept | None  # that it shares with the points before and after it
    begin: float = field(default_factory=time.monotonic)


@contextmanager
def fork_server() -> Iterator[None]:
    """Have the process from which points are forked, which takes seconds to import all that they
    need.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    os.environ[STARTER] = str(os.getpid())
    with removed_if_killed(Path(get_temp_dir())):  # that of its socket
        forkserver.ensure_running()
        yield


class LocalSweep:
    """Runs points until none is left, within `fork_server`. Close it, however `run` has ended."""

    def __init__(self, folder: SweepDir, limit: Capacity, policy: Policy, events: Events) -> None:
        self._folder, self._limit, self._policy, self._events = folder, limit, policy, events
        self._context = multiprocessing.get_context("forkserver")
        self._running: list[_Running] = []
        self._guests = Guests(folder, None)
        self._stopped = False

    def run(self, points: Sequence[PlannedPoint]) -> dict[str, Record]:
        """How each of `points` ended, by identity; those that never began are missing.

        Raises:
            MachineError: the disk is full.
            KeyboardInterrupt: what was in flight has been ended.
        """
        first = points[: side_by_side(points, self._limit)]
        self._guests = Guests(self._folder, Shape.of(points))
        waiting = deque((point, 1) for point in points)
        records: dict[str, Record] = {}
        try:
            self._guests.start(first)  # while the fork server is still importing
            self._work(waiting, records)
        finally:
            self._end()
        return records

    def close(self) -> None:
        """After `run`: wait until its guests have given back what they had, and remove what they
        left.
        """
        self._guests.await_ends()
        self._folder.clear_running()

    def _work(self, waiting: deque[tuple[PlannedPoint, int]], records: dict[str, Record]) -> None:
        """Until no point is left, note how each ended in `records`."""
        while (waiting and not self._stopped) or self._running:
            while waiting and not self._stopped and self._fits(waiting[0][0]):
                self._start(*waiting.popleft())
            wait([each.process.sentinel for each in self._running], timeout=POLL_S)
            for each in [each for each in self._running if self._has_ended(each)]:
                record = self._settle(each)
                if each.guest is not None:
                    self._guests.take_back(each.guest, sound=record.state == "completed")
                again = record.state == "failed" and each.attempt <= self._policy.retries
                self._events.ended(each.point, record, again)
                if again:
                    waiting.append((each.point, each.attempt + 1))
                else:
                    records[each.point.identity] = record
                    self._stopped |= self._policy.fail_fast and record.state == "failed"
            if not waiting:
                self._guests.end_idle()
            self._events.tick()

    def _fits(self, point: PlannedPoint) -> bool:
        used = sum(self._need_bytes(each.point) for each in self._running)
        few = len(self._running) < self._limit.jobs
        return few and (
            not self._running or used + self._need_bytes(point) <= self._limit.memory_bytes
        )

    def _need_bytes(self, point: PlannedPoint) -> int:
        """As `need_bytes`; a guest that is shared is as large as its largest point wants it."""
        shape = self._guests.shape
        shared = (
            0
            if shape is None or not may_join_series(point.plan)
            else shape.memory_bytes + PROCESS_MEMORY
        )
        return max(need_bytes(point), shared)

    def _start(self, point: PlannedPoint, attempt: int) -> None:
        guest = self._guests.lend(point)
        place = self._folder.running if guest is None else guest.folder
        shutil.rmtree(place / point.folder, ignore_errors=True)
        process = self._context.Process(
            target=_child,
            args=(self._folder.path, place, point, self._policy.limits, attempt),
            name=point.folder,
            # the end of a sweep that was interrupted while it ended its processes would wait for
            # them
            daemon=True,
        )
        process.start()
        self._running.append(_Running(point, attempt, process, guest))
        self._events.started(point, attempt)

    def _has_ended(self, each: _Running) -> bool:
        limit = self._policy.limits.timeout_s
        if limit is not None and time.monotonic() - each.begin > limit + GRACE_S:
            each.process.kill()
        return each.process.exitcode is not None

    def _settle(self, each: _Running) -> Record:
        """The record that the point's process has left; one is made for a process that died
        without.

        Raises:
            MachineError: the disk is full.
        """
        self._running.remove(each)
        each.process.join()
        status = each.process.exitcode
        place = {0: self._folder.points, 1: self._folder.failed}.get(
            status if status is not None else -1
        )
        record = None if place is None else read_record(place / each.point.folder)
        if record is None:
            if status == FULL:
                raise disk_full(self._folder, len(self._folder.done()))
            reason = f"the point's process ended with status {status}"
            if status is not None and status < 0:
                reason = f"the point's process was killed ({signal.Signals(-status).name})"
                reason += (
                    "; this machine's memory may have run out" if status == -signal.SIGKILL else ""
                )
            left = (
                self._folder.running if each.guest is None else each.guest.folder
            ) / each.point.folder
            last = _last_line(self._folder.log(each.point.folder))
            reason += f": {last}" if last else ""
            wall = round(time.monotonic() - each.begin, 3)
            record = Record(
                each.point.identity, each.point.name, "failed", reason, wall, 0.0, each.attempt
            )
            with suppress(OSError):
                self._folder.settle(left, record)
        if record.state == "failed" and is_disk_full(record.reason):
            raise disk_full(self._folder, len(self._folder.done()))
        return record

    def _end(self) -> None:
        """End what is in flight, and tell the guests to end."""
        for each in self._running:
            each.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for each in self._running:
            each.process.join(max(0.0, deadline - time.monotonic()))
            if each.process.exitcode is None:
                each.process.kill()
                each.process.join()
        self._running.clear()
        self._guests.end()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def prepare_process() -> None:
    """Of each process of a sweep: it ends when the sweep wants it to, or has died."""
    _end_with_parent()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the sweep too, which ends its points
    signal.signal(signal.SIGTERM, _interrupt)
    fall_first(os.getpid())


def _child(path: Path, place: Path, point: PlannedPoint, limits: Limits, attempt: int) -> None:
    """The process of one point: run it, put its folder where it belongs, and end with 0, or with 1
    if it failed.
    """
    prepare_process()
    folder = SweepDir(path)
    try:
        _print_to(folder.log(point.folder))
        left, record = carry_out(point, place, limits, attempt, series=place != folder.running)
        with suppress(OSError):
            folder.log(point.folder).replace(left / "logs/point.log")
        try:
            folder.settle(left, record)
        except OSError as error:
            with suppress(OSError):  # the log is on the same disk
                print(f"{error.strerror}: {error.filename or left}", file=sys.stderr)
            os._exit(FULL if error.errno in NO_SPACE else 1)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0 if record.state == "completed" else 1)


def _print_to(path: Path) -> None:
    """Whatever this process prints goes to a file."""
    with path.open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _end_with_parent() -> None:
    """Die when the sweep has died, or the fork server, which is this process's own parent."""
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def estimated_seconds(walls: Mapping[str, float], remaining: int, jobs: int) -> float | None:
    """How long `remaining` points take, going by those that are done; None if none is."""
    if not walls:
        return None
    return sum(walls.values()) / len(walls) * remaining / max(jobs, 1)
