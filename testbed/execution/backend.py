"""Define the interface of execution backends, and select the backend for a plan."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from testbed.core.leftovers import Note
from testbed.execution.guest_backend import GuestBackend, ResidentGuestBackend
from testbed.execution.host_backend import HostBackend
from testbed.execution.machines import Machines
from testbed.execution.machines_backend import MachinesBackend
from testbed.execution.sites_backend import SitesBackend
from testbed.execution.supervise import Progress, Running
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir


class Backend(Protocol):
    """Executor of plans that runs `testbed.execution.inside` in some kernel.

    The records of a run appear in the run folder while the run is in progress. Other backends may
    collect the records from several kernels, or simulate a run.
    """

    @property
    def subject(self) -> str:
        """Noun phrase for the backend, with which an error message can begin."""

    def check(self, plan: Plan) -> None:
        """Check that the plan can be carried out, with quick checks only.

        Raises:
            MachineError: a requirement is missing.
        """

    def prepare(self, progress: Progress) -> None:
        """Create prerequisites of a run, such as the kernel.

        Raises:
            TestbedError: a prerequisite cannot be created.
        """

    def kernel_version(self) -> str:
        """Return the name and version of the kernel; call `prepare` first."""

    def start(self, plan: Plan, run: RunDir, progress: Progress) -> AbstractContextManager[Running]:
        """Carry out the plan in the run folder, within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            TestbedError: the plan cannot be started.
        """

    def heal(self) -> str:
        """Remove what is damaged in the cache, after a run was lost.

        Returns:
            What was removed, for an error message; empty: nothing was damaged.
        """

    @staticmethod
    def clean_up(left: Note) -> None:
        """End and remove a killed run's remains, if the note refers to a run of this backend."""


BACKENDS: tuple[type[Backend], ...] = (GuestBackend, HostBackend)  # those that leave remains


def backend_for(
    plan: Plan, *, resident_guest: Path | None, patience_s: float, machines: Machines | None = None
) -> Backend:
    """Return the backend for a plan.

    Args:
        plan: the plan of the run.
        resident_guest: the folder of a resident guest that carries out the plan; None: the plan
            selects the backend.
        patience_s: wall time to wait for a resident guest to become ready.
        machines: the machines that run the guests of the plan; None: only this one.
    """
    if resident_guest is not None:
        return ResidentGuestBackend(resident_guest, patience_s)
    if plan.where == "here":
        return HostBackend()
    if plan.sites and machines is not None:
        return MachinesBackend(machines)
    if plan.sites:
        return SitesBackend()
    return GuestBackend()
