"""Guests that carry out one point after another, so that booting one and importing torch is not
paid for each point.

Each is kept by a thread, and ends with the sweep. A guest whose point did not complete is ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from testbed.core.errors import TestbedError
from testbed.execution.launch import folders_of, may_join_series, start_series
from testbed.guest.kernel import ensure_kernel
from testbed.guest.resident import ENDED, keep
from testbed.sweep.folder import SweepDir
from testbed.sweep.points import PlannedPoint

OOM_SCORE = "500"


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


class Kept:
    """A guest, and the thread that keeps it."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        """Boot one that has `shape`; the run folders of its points begin in the new folder
        `folder`.
        """
        self.folder = folder
        self._enough = Event()
        self._thread = Thread(target=self._keep, args=(shape,), name=folder.name, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether it can still carry out points."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Tell it to end."""
        self._enough.set()

    def await_end(self) -> None:
        """After `end`: wait for it, and remove its folder."""
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, shape: Shape) -> None:
        reason = ""
        try:
            with start_series(
                ensure_kernel(), self.folder, memory_bytes=shape.memory_bytes, named=shape.readable
            ) as guest:
                fall_first(guest.process.pid)
                keep(guest, self.folder, self._enough)
        except (TestbedError, OSError) as error:
            reason = str(error)
        with suppress(OSError):  # on a full disk; visits then find that the guest does not live
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ENDED).write_text(reason)


@dataclass
class Guests:
    """The guests of a sweep on this machine."""

    folder: SweepDir
    shape: Shape | None
    _all: list[Kept] = field(default_factory=list)
    _idle: list[Kept] = field(default_factory=list)
    _leaving: list[Kept] = field(default_factory=list)  # told to end
    _started: int = 0

    def start(self, points: Sequence[PlannedPoint]) -> None:
        """Boot a guest for each of `points` that may share one."""
        for _point in filter(self._may_share, points):
            self._idle.append(self._new())

    def lend(self, point: PlannedPoint) -> Kept | None:
        """A guest for `point`; None if it has to have one of its own."""
        if not self._may_share(point):
            self.end_idle()
            self.await_ends()  # they hold memory
            return None
        self._forget_dead()
        return self._idle.pop() if self._idle else self._new()

    def take_back(self, kept: Kept, *, sound: bool) -> None:
        """`sound`: its point completed, and so it may carry out another."""
        if sound and kept.alive():
            self._idle.append(kept)
        else:
            self._dismiss(kept)
            self.await_ends()

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
            self._leaving.pop().await_end()

    def _may_share(self, point: PlannedPoint) -> bool:
        return self.shape is not None and may_join_series(point.plan)

    def _new(self) -> Kept:
        assert self.shape is not None
        self._started += 1
        kept = Kept(self.folder.running / f".guest-{self._started}", self.shape)
        self._all.append(kept)
        return kept

    def _forget_dead(self) -> None:
        for kept in [kept for kept in self._idle if not kept.alive()]:
            self._dismiss(kept)

    def _dismiss(self, kept: Kept) -> None:
        kept.end()
        for some in (self._all, self._idle):
            if kept in some:
                some.remove(kept)
        self._leaving.append(kept)


def fall_first(pid: int) -> None:
    """Where memory runs out, Linux ends process `pid`, and what it starts, before the sweep."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(OOM_SCORE)
