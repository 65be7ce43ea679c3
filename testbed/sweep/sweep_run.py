"""A sweep from its plan to its tables and its page, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from testbed.core.errors import TestbedError
from testbed.core.held_signals import HeldSignals
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.versions import versions
from testbed.guest.kernel import Kernel
from testbed.runfolder.files import replace_text
from testbed.spec.experiment import Experiment
from testbed.spec.overrides import Override
from testbed.sweep.folder import NamedPoint, SweepDir
from testbed.sweep.fork_server import fork_server
from testbed.sweep.local_executor import LocalExecutor, capacity
from testbed.sweep.outputs import PointRows, write_outputs, write_outputs_in_fork
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint, index_of, plan_points, unique
from testbed.sweep.progress import ShowSweep
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Executor, Policy, Scheduler

AnyPoint = TypeVar("AnyPoint", bound=NamedPoint)

CLUSTER_MEMORY = 2**60  # bytes; the memory of the cluster's nodes is unknown during planning


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep.

    Attributes:
        jobs: Number of guests that run in parallel; None: as many as CPUs and memory allow.
        limits: Time limits of a point.
        policy: Reaction to failed points.
        ray_address: Address of the Ray cluster that runs the points; None: this machine.
        retry_damaged: Whether to run complete points again whose files cannot be read.
    """

    jobs: int | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    ray_address: str | None = None
    retry_damaged: bool = False


def plan_sweep(
    experiment: Experiment,
    kernel: Kernel | None,
    overrides: Sequence[Override],
    ray_address: str | None,
) -> list[PlannedPoint]:
    """Plan every point of a sweep.

    Args:
        experiment: The experiment to plan.
        kernel: The guest kernel; None: not built yet.
        overrides: Settings of the topology, the workload and the run, for all points.
        ray_address: As in `SweepOptions`.

    Raises:
        InputError: A point cannot be run, or no point meets the conditions.
    """
    memory_bytes = None if ray_address is None else CLUSTER_MEMORY
    return plan_points(
        experiment,
        versions(guest_kernel_version(kernel)),
        overrides,
        machine_memory_bytes=memory_bytes,
    )


@contextmanager
def points_forked(options: SweepOptions) -> Iterator[None]:
    """Run the fork server within the block, if this machine runs the points."""
    if options.ray_address is not None:
        yield
        return
    with fork_server():
        yield


@dataclass(frozen=True)
class SweepRun:
    """A new or resumed sweep, to be carried out within `points_forked`.

    A subclass that chooses the points during the sweep replaces `run_points`.

    Attributes:
        experiment: The experiment as written.
        points: All points of the experiment, done or not.
        folder: The sweep folder.
        options: Options of the sweep.
        command: Command line that sweep.json records.
    """

    experiment: Experiment
    points: list[PlannedPoint]
    folder: SweepDir
    options: SweepOptions
    command: Sequence[str]

    def carry_out(
        self, display: ShowSweep, show_table: Callable[[PointRows], None]
    ) -> dict[str, PointRecord]:
        """Run the points that are not done, then make the tables and the page.

        Args:
            display: Shows the progress of the sweep.
            show_table: Called with the rows of all points after writing, while guests end.

        Returns:
            Outcome of each point that ran, by identity.

        Raises:
            InputError: Another sweep works in the folder, or a point needs too much memory.
            MachineError: The disk is full, or Ray is not installed.
        """
        is_local = self.options.ray_address is None
        make_outputs = write_outputs_in_fork if is_local else write_outputs
        with (
            HeldSignals() as signals,
            self.folder.full_disk_reported(),
            self.folder.locked(),
            ExitStack() as stack,
        ):
            try:
                with signals.raised():
                    records = self.run_points(stack, display)
            except BaseException:
                # The table can be made later; keep the error that ended the sweep.
                with suppress(BaseException), signals.raised():
                    make_outputs(self.folder)
                raise
            with signals.raised():
                rows = make_outputs(self.folder)
                show_table(rows)
        return records

    def run_points(self, stack: ExitStack, display: ShowSweep) -> dict[str, PointRecord]:
        """Run the points that are not done; guests end with `stack`, during the output."""
        self.write_experiment()
        self.write_index(self.points)
        distinct = unique(self.points)
        waiting = not_done(distinct, self.folder, retry_damaged=self.options.retry_damaged)
        if not waiting:
            return {}

        executor = self.new_executor()
        stack.callback(executor.close)
        done_before = len(distinct) - len(waiting)
        with display(len(distinct), done_before) as progress:
            scheduler = Scheduler(self.folder, executor, self.options.policy, progress)
            return scheduler.run(waiting)

    def write_experiment(self) -> None:
        """Write the experiment, and a topology that was made in Python, into the folder."""
        replace_text(self.folder.experiment, self.experiment.to_yaml(), durably=True)
        given_topology = self.experiment.given_topology
        if given_topology is not None:
            replace_text(self.folder.topology, given_topology.text, durably=True)

    def write_index(self, points: Sequence[PlannedPoint], **changes: Any) -> None:
        """Write sweep.json.

        Args:
            points: All points that the experiment has until now, done or not.
            **changes: Values of fields that differ from those of the experiment.
        """
        index = index_of(self.experiment, points, self.command)
        index = index.model_copy(update=changes)
        self.folder.write_index(self.folder.with_earlier_points(index))

    def new_executor(self) -> Executor:
        """Return an executor for the options, before its start."""
        address = self.options.ray_address
        if address is None:
            return LocalExecutor(self.folder, capacity(self.options.jobs), self.options.limits)
        from testbed.sweep.ray_executor import RayExecutor  # noqa: PLC0415 (an extra)

        return RayExecutor(self.folder, address, self.options.limits)


def not_done(
    points: Sequence[AnyPoint], folder: SweepDir, *, retry_damaged: bool
) -> list[AnyPoint]:
    """Return the points that are to be run.

    Args:
        points: All points.
        folder: The sweep folder.
        retry_damaged: Whether complete points whose files cannot be read are to be run again.
    """
    done = set(folder.done())
    damaged = folder.damages(points)
    if retry_damaged:
        done.difference_update(damaged)
    else:
        done.update(damaged)
    return [point for point in points if point.identity not in done]


def check_records(records: Mapping[str, PointRecord], points: Sequence[PlannedPoint]) -> None:
    """Check that every point that ran has completed.

    Args:
        records: Outcome of points, by identity.
        points: All points of the sweep.

    Raises:
        TestbedError: Points failed; the message names the first one.
    """
    failed = [record for record in records.values() if record.state != "completed"]
    if failed:
        first = failed[0]
        raise TestbedError(
            f"{len(failed)} of {len(unique(points))} points failed; "
            f"the first is {first.name}: {first.reason}"
        )


def default_folder(experiment: Experiment) -> Path:
    """Return the default folder of a sweep, below ``results``."""
    return Path("results", f"sweep-{experiment.name}")
