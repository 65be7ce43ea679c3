"""Carry out a plan in several guests on several machines, which share one virtual clock."""

from __future__ import annotations

import secrets
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from testbed.core.errors import GuestLost, TestbedError
from testbed.core.leftovers import temporary_folder
from testbed.execution.guest_records import GuestRecords
from testbed.execution.machines import (
    Address,
    GuestNews,
    Machines,
    News,
    PartLost,
    PartOrder,
    RunPart,
)
from testbed.execution.sites_backend import Guests, SitesBackend
from testbed.execution.supervise import Progress
from testbed.guest.clock import ClockReading
from testbed.guest.sites import SiteWork
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir

LOOK_S = 0.1  # between two questions to a machine
PREPARATION_S = 600.0  # a machine has to unpack the code, and to collect the modules of guests
END_S = 120.0
NO_WORK = SiteWork(waits=0, waited_s=0.0, packets=0, bytes=0, hasty=0)


class RemoteGuest:
    """A guest of another machine, as far as is known here.

    Attributes:
        news: the newest news; None before the first.
    """

    def __init__(self) -> None:
        self.news: GuestNews | None = None

    def status(self) -> int | None:
        """Return the exit status; None while the guest runs, -1 if the guest was lost."""
        return self.news.status if self.news is not None else None

    def clock(self) -> ClockReading | None:
        """Return the guest's newest clock report; None before the first."""
        return self.news.reading if self.news is not None else None

    def cpu_seconds(self) -> float:
        """Return the CPU time in s that the guest has used."""
        return self.news.cpu_s if self.news is not None else 0.0


class RemoteWork:
    """What the kernels of guests of other machines have noted."""

    def __init__(self, guests: Sequence[RemoteGuest]) -> None:
        self._guests = guests

    def work(self, number: int) -> SiteWork:
        """Return what the kernel of guest `number` has noted so far."""
        news = self._guests[number].news
        return NO_WORK if news is None else news.work


class RemoteGuests(Guests):
    """The running guests of a run on several machines."""

    def __init__(self, parts: Sequence[RunPart], records: GuestRecords, run: RunDir) -> None:
        """Follow the guests of some parts, which have been started."""
        self._parts = list(parts)
        self._remote = [RemoteGuest() for _guest in records.guests]
        machines = [""] * len(self._remote)
        for part in parts:
            for number in part.guests:
                machines[number] = part.name
        super().__init__(self._remote, records, RemoteWork(self._remote), run, machines)
        self._folders = records.guests
        self._asked_at: dict[int, float] = {}
        self._lost: set[int] = set()  # places of parts

    def status(self) -> int | None:
        """Return the exit status of the run; see `Guests.status`.

        Raises:
            GuestLost: a machine was lost, or the connection between two of them.
        """
        for place in range(len(self._parts)):
            self._look(place)
        return super().status()

    def fetch_rest(self) -> None:
        """End the guests, and fetch their files from the machines that are not lost."""
        places = [place for place in range(len(self._parts)) if place not in self._lost]
        for place in places:
            with suppress(TestbedError):
                part = self._parts[place]
                if place in self._asked_at:
                    self._take(part.answer(END_S))
                part.ask("finish")
        for place in places:
            with suppress(TestbedError):
                self._fetch_rest_of(self._parts[place])

    def _look(self, place: int) -> None:
        part = self._parts[place]
        now = time.monotonic()
        try:
            if place in self._asked_at:
                answer = part.answer(0.0)
                if answer is None:
                    return
                self._take(answer)
                if now < self._asked_at[place] + LOOK_S:
                    del self._asked_at[place]
                    return
            part.ask("look", self._wishes(part))
            self._asked_at[place] = now
        except PartLost as error:
            self._lost.add(place)
            guests = ", ".join(map(str, part.guests))
            message = f"the machine {part.name} with guest {guests} was lost: {error}"
            raise GuestLost(message) from error

    def _wishes(self, part: RunPart) -> tuple[int, ...]:
        """Return the guests of a part whose ranks shall write their stacks."""
        wished: list[int] = []
        for number in part.guests:
            wish = self._folders[number].stacks_wanted
            if wish.exists():
                wish.unlink()
                wished.append(number)
        return tuple(wished)

    def _take(self, answer: tuple[Any] | None) -> None:
        if answer is None:
            return
        news: News = answer[0]
        for path, data in news.files.items():
            with (self._run.path / path).open("ab") as file:
                file.write(data)
        for number, guest in news.guests.items():
            self._remote[number].news = guest
        is_over = all(guest.status is not None for guest in news.guests.values())
        if news.failure and not is_over:
            raise GuestLost(news.failure)

    def _fetch_rest_of(self, part: RunPart) -> None:
        """Fetch the last records of a part, and its files."""
        _answer_of(part, END_S)  # to finish
        while True:
            part.ask("look", ())
            (news,) = _answer_of(part, END_S)
            with suppress(GuestLost):
                self._take((news,))
            if not news.files:
                break
        with temporary_folder("testbed-part-") as scratch:
            archive = scratch / "rest.tar"
            with archive.open("wb") as file:
                while True:
                    part.ask("rest", file.tell())
                    (data,) = _answer_of(part, END_S)
                    if not data:
                        break
                    file.write(data)
            if archive.stat().st_size > 0:
                _unpack(archive, self._run.path)


class MachinesBackend(SitesBackend):
    """Backend that carries out a plan in guests on several machines."""

    def __init__(self, machines: Machines) -> None:
        """Prepare a backend that uses some machines."""
        super().__init__()
        self._machines = machines

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[Guests]:
        """Carry out the plan in new guests, within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            MachineError: a machine cannot be used, or a guest cannot be started.
            GuestLost: a machine was lost.
        """
        self.require_shared_clock()
        progress.stage("machines")
        with ExitStack() as stack:
            records = GuestRecords(run, plan)
            stack.callback(records.finish)
            placed = self._machines.place(plan, self.kernel, progress)
            parts = stack.enter_context(placed)
            hub = _prepare(parts, plan)
            progress.stage("boot")
            running = RemoteGuests(parts, records, run)
            stack.callback(running.note_work)
            stack.callback(running.fetch_rest)
            for part in parts:
                part.ask("start", hub)
            for part in parts:
                _answer_of(part, PREPARATION_S)
            yield running


def _prepare(parts: Sequence[RunPart], plan: Plan) -> Address:
    """Let each part check its machine; return the address of the hub."""
    groups = tuple(part.guests for part in parts)
    token = secrets.token_bytes(32)
    document = plan.model_dump_json()
    for place, part in enumerate(parts):
        part.ask("prepare", PartOrder(document, place, groups, token, part.address))
    answers = [_answer_of(part, PREPARATION_S) for part in parts]
    (hub,) = answers[0]
    assert hub is not None
    address: Address = hub
    return address


def _answer_of(part: RunPart, timeout_s: float) -> tuple[Any]:
    """Return the answer of a part.

    Raises:
        GuestLost: the part is lost, or does not answer in time.
    """
    try:
        answer = part.answer(timeout_s)
    except PartLost as error:
        raise GuestLost(f"the machine {part.name} was lost: {error}") from error
    if answer is None:
        raise GuestLost(f"the machine {part.name} did not answer within {timeout_s:.0f} s")
    return answer


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the files of an archive below a folder, but none that would be unsafe."""
    with tarfile.open(archive) as tar:
        for member in tar:
            with suppress(tarfile.FilterError, OSError):
                tar.extract(member, folder, filter="data")
