"""Carry out a plan in several guests at the same time, which share one virtual clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Protocol

from testbed.core.errors import MachineError
from testbed.execution.guest_backend import GuestKernelBackend
from testbed.execution.guest_code import Code, code_for_guests, with_gpus
from testbed.execution.guest_records import GuestRecords
from testbed.execution.supervise import Progress
from testbed.guest.boot import Guest, GuestSpec, start_guest
from testbed.guest.clock import ClockReading
from testbed.guest.sites import GuestLink, SharedClock, SiteWork, shared_clock
from testbed.plan.model import GuestSite, Plan
from testbed.runfolder.folder import RunDir
from testbed.runfolder.records import GuestWork, append

LAST_WORDS_S = 10.0  # wall time for the other guests to end after one has failed


class OneGuest(Protocol):
    """One of the running guests of a run: `testbed.guest.boot.Guest`, or one elsewhere."""

    def status(self) -> int | None:
        """Return the exit status; None while the guest runs, -1 if the guest was lost."""

    def clock(self) -> ClockReading | None:
        """Return the guest's newest clock report; None before the first."""

    def cpu_seconds(self) -> float:
        """Return the CPU time in s that the guest has used."""


class WorkOfGuests(Protocol):
    """What the kernels of guests note: `testbed.guest.sites.SharedClock`, or one elsewhere."""

    def work(self, number: int) -> SiteWork:
        """Return what the kernel of guest `number` has noted so far."""


class Guests:
    """The running guests of a run."""

    def __init__(
        self,
        guests: Sequence[OneGuest],
        records: GuestRecords,
        clock: WorkOfGuests,
        run: RunDir,
        machines: Sequence[str] = (),
    ) -> None:
        """Follow guests.

        Args:
            guests: the guests, by their number.
            records: their folders.
            clock: what their kernels note.
            run: the run folder.
            machines: name of each guest's machine; empty: all are on this one.
        """
        self._guests = list(guests)
        self._records = records
        self._clock = clock
        self._run = run
        self._machines = machines
        self._began = time.monotonic()
        self._failed_at: float | None = None
        self._cpu_s: dict[int, float] = {}  # of guests that have ended: processes vanish

    def status(self) -> int | None:
        """Return the exit status of the run; None while a guest runs, -1 if a guest was lost."""
        statuses = [guest.status() for guest in self._guests]
        for number, status in enumerate(statuses):
            if status is not None and number not in self._cpu_s:
                self._cpu_s[number] = self._guests[number].cpu_seconds()
        self._records.collect()
        failures = [status for status in statuses if status not in (None, 0)]
        if failures and self._failed_at is None:
            self._failed_at = time.monotonic()
        if None in statuses and not self._is_lost(failures):
            return None
        self._records.end()
        return failures[0] if failures else 0

    def _is_lost(self, failures: Sequence[int | None]) -> bool:
        """Return whether guests that still run have no more to say."""
        if -1 in failures:
            return True
        return self._failed_at is not None and time.monotonic() > self._failed_at + LAST_WORDS_S

    def clock(self) -> ClockReading | None:
        """Return the report of the guest that is furthest behind; None before all have reported."""
        readings = [guest.clock() for guest in self._guests]
        present = [reading for reading in readings if reading is not None]
        if len(present) < len(readings):
            return None
        last = min(present, key=lambda reading: reading.time_ns)
        forced_ns = sum(reading.forced_ns for reading in present)
        return ClockReading(last.time_ns, forced_ns, last.pid, last.host, last.command)

    def cpu_seconds(self) -> float:
        """Return the CPU time in s of all guests."""
        return sum(guest.cpu_seconds() for guest in self._guests)

    def note_work(self) -> None:
        """Record how much each guest worked, and how long each waited for the others."""
        wall_s = time.monotonic() - self._began
        for number, guest in enumerate(self._guests):
            work = self._clock.work(number)
            cpu_s = self._cpu_s.get(number) or guest.cpu_seconds()
            record = GuestWork(
                guest=number,
                wall_s=round(wall_s, 3),
                cpu_s=round(cpu_s, 3),
                waits=work.waits,
                waited_s=round(work.waited_s, 3),
                packets=work.packets,
                bytes=work.bytes,
                hasty=work.hasty,
                machine=self._machines[number] if self._machines else "",
            )
            append(self._run.guest_work, record)


class SitesBackend(GuestKernelBackend):
    """Backend that carries out a plan in a guest for each of the plan's sites."""

    subject = "one of the guests"

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[Guests]:
        """Carry out the plan in new guests, within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            MachineError: a guest cannot be started, or the kernel cannot share its clock.
        """
        self.require_shared_clock()
        code = code_for_guests(lambda: progress.stage("modules"))
        code = with_gpus(code, plan, lambda: progress.stage("gpus"))
        progress.stage("boot")
        with ExitStack() as stack:
            records = GuestRecords(run, plan)
            stack.callback(records.finish)
            if plan.workers.has_gpus:
                run.common.mkdir()
                run.common.chmod(0o777)
            clock = stack.enter_context(shared_clock(len(plan.sites), links_of(plan)))
            guests: list[Guest] = []
            for site, folder in zip(plan.sites, records.guests, strict=True):
                spec = self.spec_for_site(plan, run, code, site, folder, clock)
                guests.append(stack.enter_context(start_guest(spec)))
            running = Guests(guests, records, clock, run)
            stack.callback(running.note_work)
            yield running

    def require_shared_clock(self) -> None:
        """Check that guests can share their clock.

        Raises:
            MachineError: the kernel does not support it.
        """
        if not self.kernel.shares_clock:
            raise MachineError(
                f"{self.kernel.path} cannot share its virtual clock with other guests\n"
                "  use --guests 1, or a guest kernel of Linux 6.12 (testbed guest build)"
            )

    def spec_for_site(
        self,
        plan: Plan,
        run: RunDir,
        code: Code,
        site: GuestSite,
        folder: RunDir,
        clock: SharedClock,
    ) -> GuestSpec:
        """Return the guest that builds one site.

        Args:
            plan: the plan of the run.
            run: the run folder, as the guest sees it.
            code: the code that the guest runs.
            site: the site.
            folder: the folder into which the guest writes.
            clock: the memory that the guest shares with others.
        """
        console = run.console
        if site.number > 0:
            console = console.with_stem(f"{console.stem}-{site.number}")
        return replace(
            self.spec(plan, run, code),
            writable_from=folder.path,
            common=run.common if plan.workers.has_gpus else None,
            memory_bytes=site.memory_bytes,
            clock_file=folder.clock,
            console=console,
            clock_shared=clock,
            site=site.number,
        )


def links_of(plan: Plan) -> list[GuestLink]:
    """Return the links between guests, in the order of their devices."""
    links: dict[int, GuestLink] = {}
    for site in plan.sites:
        for crossing in site.crossings:
            links[crossing.device] = GuestLink(crossing.ends, crossing.delays_ns)
        if site.number > 0:
            (device,) = site.control_devices
            delay_ns = site.control_delay_ns
            links[device] = GuestLink((0, site.number), (delay_ns, delay_ns))
    return [links[device] for device in sorted(links)]
