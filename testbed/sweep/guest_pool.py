"""Guests that carry out several points in sequence, which saves booting and importing torch.

A thread manages each guest. All guests end with the sweep; a guest whose point did not complete
ends immediately.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from testbed.core.errors import TestbedError
from testbed.execution.guest_backend import may_share_guest, start_resident_guest
from testbed.execution.guest_code import plan_folders
from testbed.guest.kernel import ensure_kernel
from testbed.guest.resident import ENDED, keep_resident
from testbed.plan.model import Plan
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import end_first_without_memory
from testbed.sweep.points import PlannedPoint


@dataclass(frozen=True)
class GuestNeeds:
    """Requirements of a guest for a set of points: memory, and folders to read."""

    memory_bytes: int
    readable: frozenset[Path]

    @classmethod
    def of(cls, points: Sequence[PlannedPoint]) -> GuestNeeds | None:
        """Return the requirements of the points that may share a guest; None for fewer than two."""
        plans = [point.plan for point in points if may_share_guest(point.plan)]
        if len(plans) < 2:
            return None
        readable: set[Path] = set()
        for plan in plans:
            readable |= plan_folders(plan)
        memory_bytes = max(plan.guest_memory_bytes for plan in plans)
        return cls(memory_bytes, frozenset(readable))

    def suffice_for(self, plan: Plan) -> bool:
        """Return whether a guest with these can carry out a plan that was not known before."""
        return plan.guest_memory_bytes <= self.memory_bytes and plan_folders(plan) <= self.readable


class PooledGuest:
    """A guest, and the thread that manages it."""

    def __init__(self, folder: Path, needs: GuestNeeds) -> None:
        """Boot a guest; the run folders of its points are created in the new folder `folder`."""
        self.folder = folder
        self._end = Event()
        self._thread = Thread(target=self._keep, args=(needs,), name=folder.name, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the guest can still carry out points."""
        return self._thread.is_alive()

    def end(self) -> None:
        """Ask the guest to end, without waiting."""
        self._end.set()

    def await_end(self) -> None:
        """Wait for the guest to end after `end`, and remove the guest's folder."""
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, needs: GuestNeeds) -> None:
        reason = ""

        try:
            with start_resident_guest(
                ensure_kernel(),
                self.folder,
                memory_bytes=needs.memory_bytes,
                readable=needs.readable,
            ) as guest:
                end_first_without_memory(guest.process.pid)
                keep_resident(guest, self._end)
        except (TestbedError, OSError) as error:
            reason = str(error)

        with suppress(OSError):  # on a full disk, points notice that the guest's process is gone
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ENDED).write_text(reason)


class GuestPool:
    """The shared guests of a sweep on this machine; without `needs` no points share a guest."""

    def __init__(self, folder: SweepDir, needs: GuestNeeds | None = None) -> None:
        self._folder = folder
        self._needs = needs
        self._guests: list[PooledGuest] = []
        self._idle: list[PooledGuest] = []
        self._ending: list[PooledGuest] = []
        self._started = 0

    def start(self, points: Sequence[PlannedPoint]) -> None:
        """Boot one guest for each of `points` that may share a guest."""
        for point in points:
            if self._may_share(point):
                self._idle.append(self._boot())

    def lend(self, point: PlannedPoint) -> PooledGuest | None:
        """Return a guest for `point`; None if the point must have a dedicated guest."""
        if not self._may_share(point):
            self.end_idle()
            self.await_ends()  # idle guests hold memory
            return None

        for guest in list(self._idle):
            if not guest.alive():
                self._end(guest)
        if self._idle:
            return self._idle.pop()

        return self._boot()

    def take_back(self, guest: PooledGuest, *, sound: bool) -> None:
        """Take back a guest that `lend` returned.

        Args:
            guest: The guest to take back.
            sound: Whether the point completed, so that the guest may carry out another.
        """
        if sound and guest.alive():
            self._idle.append(guest)
            return
        self._end(guest)
        self.await_ends()

    def end_idle(self) -> None:
        """Ask the idle guests to end, without waiting."""
        for guest in list(self._idle):
            self._end(guest)

    def end(self) -> None:
        """Ask all guests to end, without waiting."""
        for guest in list(self._guests):
            self._end(guest)

    def await_ends(self) -> None:
        """Wait for the guests that are ending."""
        while self._ending:
            self._ending.pop().await_end()

    def memory_bytes(self, point: PlannedPoint) -> int:
        """Return the memory of the guest for `point`; a shared guest fits the largest point."""
        own_bytes = point.plan.guest_memory_bytes
        if self._needs is None or not self._may_share(point):
            return own_bytes
        return max(self._needs.memory_bytes, own_bytes)

    def _may_share(self, point: PlannedPoint) -> bool:
        if self._needs is None:
            return False
        return may_share_guest(point.plan) and self._needs.suffice_for(point.plan)

    def _boot(self) -> PooledGuest:
        assert self._needs is not None
        self._started += 1
        name = f".guest-{self._started}"
        guest = PooledGuest(self._folder.running / name, self._needs)
        self._guests.append(guest)
        return guest

    def _end(self, guest: PooledGuest) -> None:
        guest.end()
        self._guests.remove(guest)
        if guest in self._idle:
            self._idle.remove(guest)
        self._ending.append(guest)
