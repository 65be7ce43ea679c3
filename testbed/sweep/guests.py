"""Guests that carry out one point after another, so that booting one and importing torch is not paid for each point.

Each is kept by a process of its own, which ends with the sweep. A guest whose point did not complete is ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from testbed.errors import TestbedError
from testbed.guest.kernel import ensure_kernel
from testbed.guest.series import ENDED, keep
from testbed.launch import folders_of, may_join_series, start_series
from testbed.sweep.folder import SweepDir
from testbed.sweep.grid import PlannedPoint


@dataclass(frozen=True)
class Shape:
    """What a guest must have to carry out any of some points."""

    memory_bytes: int
    readable: frozenset[Path]

    @classmethod
    def of(cls, points: Sequence[PlannedPoint]) -> Shape | None:
        """None if there are not two points that may share a guest."""
        plans = [point.plan for point in points if may_join_series(point.plan)]
        if len(plans) < 2:
            return None
        named = frozenset(place for plan in plans for place in folders_of(plan))
        return cls(max(plan.guest_memory_bytes for plan in plans), named)


@dataclass
class Kept:
    """A guest and the process that keeps it."""

    folder: Path  # where the run folders of its points begin
    process: ForkServerProcess


@dataclass
class Guests:
    """The guests of a sweep on this machine."""

    context: ForkServerContext
    folder: SweepDir
    shape: Shape | None
    prepare: Callable[[], None]  # of a new process, which ends with the sweep
    _all: list[Kept] = field(default_factory=list)
    _idle: list[Kept] = field(default_factory=list)
    _leaving: list[Kept] = field(default_factory=list)  # told to end
    _started: int = 0

    def lend(self, point: PlannedPoint) -> Kept | None:
        """A guest for `point`; None if it has to have one of its own."""
        if self.shape is None or not may_join_series(point.plan):
            self.end_idle()
            self.await_ends()  # they hold memory
            return None
        self.look()
        if self._idle:
            return self._idle.pop()
        self._started += 1
        place = self.folder.running / f".guest-{self._started}"
        process = self.context.Process(
            target=_keep, args=(place, self.shape, self.prepare), name=place.name,
            daemon=True,  # if nobody comes to end it, multiprocessing does
        )  # fmt: skip
        process.start()
        kept = Kept(place, process)
        self._all.append(kept)
        return kept

    def take_back(self, kept: Kept, *, sound: bool) -> None:
        """`sound`: its point completed, and so it may carry out another."""
        if sound and kept.process.is_alive():
            self._idle.append(kept)
        else:
            self._dismiss(kept)
            self.await_ends()

    def look(self) -> None:
        """Tell those who wait for a guest that has ended."""
        for kept in [kept for kept in self._all if not kept.process.is_alive()]:
            kept.folder.mkdir(exist_ok=True)
            (kept.folder / ENDED).touch()
            self._all.remove(kept)
            if kept in self._idle:
                self._idle.remove(kept)

    def end_idle(self) -> None:
        """Tell those that no point has to end, and do not wait for it."""
        for kept in self._idle[:]:
            self._dismiss(kept)

    def end(self) -> None:
        """Tell all of them to end, and do not wait for it."""
        for kept in self._all[:]:
            self._dismiss(kept)

    def await_ends(self) -> None:
        """Wait for those that have been told to end."""
        while self._leaving:
            kept = self._leaving.pop()
            kept.process.join()
            shutil.rmtree(kept.folder, ignore_errors=True)

    def _dismiss(self, kept: Kept) -> None:
        """Once only: a second signal would interrupt its clearing up."""
        kept.process.terminate()
        for some in (self._all, self._idle):
            if kept in some:
                some.remove(kept)
        self._leaving.append(kept)


def _keep(folder: Path, shape: Shape, prepare: Callable[[], None]) -> None:
    prepare()
    try:
        with start_series(ensure_kernel(), folder, memory_bytes=shape.memory_bytes, named=shape.readable) as guest:
            keep(guest, folder)
    except TestbedError as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ENDED).write_text(str(error))
    except KeyboardInterrupt:
        pass
