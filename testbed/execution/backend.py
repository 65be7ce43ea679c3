"""What carries out a plan: the interface that `launch` needs, and the choice among the backends."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from testbed.core.leftovers import Note
from testbed.execution.guest_backend import GuestBackend, ResidentGuestBackend
from testbed.execution.host_backend import HostBackend
from testbed.execution.supervise import Progress, Running
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir


class Backend(Protocol):
    """Carries out plans by running `testbed.execution.inside` in some kernel.

    The records of a run appear in the run's own folder while it goes on. Other backends may gather
    them from several kernels, or simulate.
    """

    @property
    def subject(self) -> str:
        """What carries out a plan, as messages name it at the beginning of a sentence."""

    def check(self, plan: Plan) -> None:
        """Check that the plan can be carried out, as far as that takes no time.

        Raises:
            MachineError: something is missing.
        """

    def prepare(self, progress: Progress) -> None:
        """Make what has to be there before a plan can be carried out, such as a kernel.

        Raises:
            TestbedError: it cannot be made.
        """

    def kernel_version(self) -> str:
        """Give the name and version of the kernel, once the backend is prepared."""

    def start(self, plan: Plan, run: RunDir, progress: Progress) -> AbstractContextManager[Running]:
        """Carry out the plan in the run folder, within the block.

        Raises:
            TestbedError: the plan cannot be started.
        """

    @staticmethod
    def clean_up(left: Note) -> None:
        """End and remove what a killed process has left of such a run, if the note is about one."""


BACKENDS: tuple[type[Backend], ...] = (GuestBackend, HostBackend)  # all that leave something


def backend_for(plan: Plan, *, resident_guest: Path | None, patience_s: float) -> Backend:
    """Choose what carries out a plan.

    Args:
        plan: what is to be done.
        resident_guest: the folder of a resident guest that is to carry out the plan; None: the plan
            says where.
        patience_s: wall time to wait for a resident guest to get ready.
    """
    if resident_guest is not None:
        return ResidentGuestBackend(resident_guest, patience_s)
    if plan.where == "here":
        return HostBackend()
    return GuestBackend()
