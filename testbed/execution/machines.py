"""What a run on several machines needs of whatever places its guests: Ray, or processes here.

Each machine runs a part of the run: some of the guests, and a bridge to the other machines
(`testbed.execution.machine_part`). The first part is the hub, to which the others connect.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from testbed.core.errors import TestbedError
from testbed.execution.supervise import Progress
from testbed.guest.clock import ClockReading
from testbed.guest.kernel import Kernel
from testbed.guest.sites import SiteWork
from testbed.plan.model import Plan

Address = tuple[str, int]  # IP address and port


class PartLost(TestbedError):
    """Loss of a machine's part of a run."""

    exit_status = 4


@dataclass(frozen=True)
class PartOrder:
    """What a machine has to know of a run.

    Attributes:
        plan: the plan of the run, as JSON.
        place: number of the part; part 0 is the hub.
        groups: numbers of the guests of each part.
        token: secret of the run, with which the parts recognize each other.
        address: IP address at which the hub listens.
    """

    plan: str
    place: int
    groups: tuple[tuple[int, ...], ...]
    token: bytes
    address: str


@dataclass(frozen=True)
class GuestNews:
    """What is new of a guest.

    Attributes:
        status: as `testbed.guest.boot.Guest.status`, once all records of the guest have been sent.
        reading: the newest report of its clock; None before the first.
        cpu_s: its CPU time in s.
        work: what its kernel has noted.
    """

    status: int | None
    reading: ClockReading | None
    cpu_s: float
    work: SiteWork


@dataclass(frozen=True)
class News:
    """What is new of a part.

    Attributes:
        guests: news of each guest of the part, by its number.
        files: new bytes at the ends of files, by their path in the run folder.
        failure: why the connection to other machines has failed; empty: it has not.
    """

    guests: dict[int, GuestNews]
    files: dict[str, bytes]
    failure: str


class RunPart(Protocol):
    """The part of a run on one machine, as the machine sees it that asked for it.

    Attributes:
        name: name of the machine.
        guests: numbers of the guests of the part.
        address: IP address at which the others can reach the machine.
    """

    name: str
    guests: tuple[int, ...]
    address: str

    def ask(self, method: str, *arguments: Any) -> None:
        """Ask for a method of `MachinePart` to be called; `answer` returns what it returns.

        Raises:
            PartLost: the part is lost.
        """

    def answer(self, timeout_s: float | None) -> tuple[Any] | None:
        """Return the answer to what was asked last; None if there is none after `timeout_s`.

        Raises:
            TestbedError: the method has failed, or the part is lost.
        """


class Machines(Protocol):
    """Some machines that can run the parts of a run."""

    def place(
        self, plan: Plan, kernel: Kernel, progress: Progress
    ) -> AbstractContextManager[Sequence[RunPart]]:
        """Prepare a part on each machine for the duration of the block.

        Args:
            plan: the plan, with its sites.
            kernel: the guest kernel to use on each machine.
            progress: the display.

        Raises:
            MachineError: the machines cannot be used.
        """
