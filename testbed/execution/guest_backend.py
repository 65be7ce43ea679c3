"""Carry out a plan in a guest that is booted for the run, or in a resident guest."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from testbed.core.leftovers import Note
from testbed.execution.guest_code import (
    Code,
    code_for_guests,
    plan_folders,
    remove_damaged_bundles,
    with_gpus,
)
from testbed.execution.requirements import require_packages, require_programs
from testbed.execution.supervise import Progress
from testbed.guest.boot import Guest, GuestSpec, end_abandoned_guest, start_guest
from testbed.guest.kernel import Kernel, ensure_kernel, remove_damaged_kernel
from testbed.guest.resident import OrderedRun, clock_file, order_run, start_resident
from testbed.plan.model import Plan
from testbed.runfolder.folder import RunDir


class GuestKernelBackend:
    """Common part of the backends that carry out plans in a guest kernel."""

    subject = "the guest"

    def __init__(self) -> None:
        self._kernel: Kernel | None = None

    def check(self, plan: Plan) -> None:
        """Check that the packages and programs are installed that the plan needs.

        Raises:
            MachineError: a package or program is missing.
        """
        require_packages()
        require_programs(plan.workers.isolation, plan.capture)

    def prepare(self, progress: Progress) -> None:
        """Build the guest kernel if necessary.

        Raises:
            MachineError: the kernel cannot be built.
            InputError: the chosen kernel source no longer exists, or is not suitable.
        """
        self._kernel = ensure_kernel(progress.building)

    @property
    def kernel(self) -> Kernel:
        """The guest kernel, once the backend is prepared."""
        assert self._kernel is not None, "the backend is not prepared"
        return self._kernel

    def kernel_version(self) -> str:
        """Return the version of the guest kernel."""
        return guest_kernel_version(self._kernel)

    def spec(self, plan: Plan, run: RunDir, code: Code) -> GuestSpec:
        """Return the guest that carries out the plan in the run folder."""
        return GuestSpec(
            kernel=self.kernel,
            command=[*code.python, "testbed.execution.inside", str(run.path)],
            writable=run.path,
            memory_bytes=plan.guest_memory_bytes,
            clock=plan.clock,
            clock_file=run.clock,
            console=run.console,
            readable=[*code.readable, *plan_folders(plan)],
            environment=code.environment,
        )

    def heal(self) -> str:
        """Remove a damaged kernel, and damaged modules, from the cache.

        Returns:
            What was removed, for an error message; empty: nothing was damaged.
        """
        removed: list[str] = []
        if remove_damaged_kernel():
            removed.append("the guest kernel")
        if remove_damaged_bundles():
            removed.append("the collected modules")
        return " and ".join(removed)

    @staticmethod
    def clean_up(left: Note) -> None:
        """End the guest that a killed process left behind, if the note refers to a guest."""
        end_abandoned_guest(left)


class GuestBackend(GuestKernelBackend):
    """Backend that carries out each plan in a separate guest."""

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[Guest]:
        """Carry out the plan in a new guest, within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            MachineError: the guest cannot be started.
        """
        code = code_for_guests(lambda: progress.stage("modules"))
        code = with_gpus(code, plan, lambda: progress.stage("gpus"))
        progress.stage("boot")
        spec = self.spec(plan, run, code)
        with start_guest(spec) as guest:
            yield guest


class ResidentGuestBackend(GuestKernelBackend):
    """Backend that carries out plans in a resident guest.

    The run folders lie below the guest's folder.
    """

    def __init__(self, folder: Path, patience_s: float) -> None:
        super().__init__()
        self._folder = folder
        self._patience_s = patience_s

    @contextmanager
    def start(self, plan: Plan, run: RunDir, progress: Progress) -> Iterator[OrderedRun]:
        """Carry out the plan as soon as the resident guest is ready, within the block.

        Args:
            plan: the plan of the run.
            run: the run folder.
            progress: the display.

        Raises:
            GuestLost: the guest has ended, or did not become ready in time.
        """
        del plan
        progress.stage("boot")
        with order_run(self._folder, run.path, self._patience_s) as ordered:
            yield ordered


def guest_kernel_version(kernel: Kernel | None) -> str:
    """Return the version text of a guest kernel; None stands for a kernel that is not built yet."""
    if kernel is None:
        return "none yet"
    return f"Linux {kernel.version} UML"


def start_resident_guest(
    kernel: Kernel, folder: Path, *, memory_bytes: int, readable: Collection[Path]
) -> AbstractContextManager[Guest]:
    """Boot a resident guest for the duration of the block; see testbed.guest.resident.

    Args:
        kernel: the guest kernel.
        folder: the guest's folder, not yet existing.
        memory_bytes: the memory that the largest plan needs.
        readable: the `plan_folders` of all plans that the guest may carry out.

    Raises:
        MachineError: the guest cannot be started.
    """
    code = code_for_guests()
    spec = GuestSpec(
        kernel=kernel,
        command=[*code.python, "testbed.execution.inside_resident", str(folder)],
        writable=folder,
        memory_bytes=memory_bytes,
        clock="virtual",
        clock_file=clock_file(folder),
        console=folder / "console.log",
        readable=[*code.readable, *readable],
        environment=code.environment,
    )
    return start_resident(spec)


def may_share_guest(plan: Plan) -> bool:
    """Return whether the plan has the same results in a guest that has carried out other plans.

    Containers and user scripts may leave files behind, and on the real clock time passes between
    plans, so the result is False for these.
    """
    workloads = [job.workers.workload for job in plan.jobs] or [plan.workers.workload]
    return (
        plan.where == "guest"
        and plan.clock == "virtual"
        and not plan.sites
        and plan.workers.isolation == "process"
        and "script" not in workloads
    )
