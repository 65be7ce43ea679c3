"""A sweep from its plan to its tables and its page, for the command line and for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from testbed.core.errors import TestbedError
from testbed.execution.guest_backend import guest_kernel_version
from testbed.execution.versions import versions
from testbed.guest.kernel import Kernel
from testbed.spec.experiment import Experiment
from testbed.spec.overrides import Override
from testbed.sweep.folder import SweepDir
from testbed.sweep.fork_server import fork_server
from testbed.sweep.local_executor import LocalExecutor, capacity
from testbed.sweep.outputs import PointRows, write_outputs, write_outputs_in_fork
from testbed.sweep.point_record import PointRecord
from testbed.sweep.points import PlannedPoint, index_of, plan_points, unique
from testbed.sweep.progress import ShowSweep
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Executor, Policy, Scheduler

CLUSTER_MEMORY = 2**60  # bytes; the memory of a cluster's machines is not known here


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is carried out.

    Attributes:
        jobs: How many guests may run side by side; None: as CPUs and memory allow.
        limits: What a point may take.
        policy: What is done about points that fail.
        ray_address: Of the Ray cluster that runs the points; None: this machine runs them.
    """

    jobs: int | None = None
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    ray_address: str | None = None


def plan_sweep(
    experiment: Experiment,
    kernel: Kernel | None,
    overrides: Sequence[Override],
    ray_address: str | None,
) -> list[PlannedPoint]:
    """Plan every point of a sweep.

    Args:
        experiment: The experiment.
        kernel: The guest kernel; None: there is none yet.
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
    """Start, for the block, the process from which points are forked, if this machine runs them."""
    if options.ray_address is not None:
        yield
        return
    with fork_server():
        yield


@dataclass(frozen=True)
class SweepRun:
    """A sweep that starts or goes on; to be carried out within `points_forked`.

    Attributes:
        experiment: What the user wrote.
        points: Its points, done or not.
        folder: Where the results are.
        options: How the sweep is carried out.
        command: The command line that sweep.json records.
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
            display: Shows the sweep.
            show_table: Gets the rows of all points when they are written, while guests end.

        Returns:
            How each point that was run ended, by identity.

        Raises:
            InputError: Another sweep works in the folder, or a point does not fit the memory.
            MachineError: The disk is full, or Ray is missing.
        """
        is_local = self.options.ray_address is None
        make_outputs = write_outputs_in_fork if is_local else write_outputs
        with self.folder.locked(), self.folder.full_disk_reported(), ExitStack() as stack:
            try:
                records = self._run_points(stack, display)
            except BaseException:
                # The table can be made later; the error says why the sweep ended.
                with suppress(Exception):
                    make_outputs(self.folder)
                raise
            show_table(make_outputs(self.folder))
        return records

    def _run_points(self, stack: ExitStack, display: ShowSweep) -> dict[str, PointRecord]:
        """Run the points that are not done; guests end with `stack`, while the outputs are made."""
        self.folder.experiment.write_text(self.experiment.to_yaml())
        index = index_of(self.experiment, self.points, self.command)
        self.folder.write_index(index)
        distinct = unique(self.points)
        waiting = not_done(distinct, self.folder)
        if not waiting:
            return {}

        executor = self._executor()
        stack.callback(executor.close)
        done_before = len(distinct) - len(waiting)
        with display(len(distinct), done_before) as progress:
            scheduler = Scheduler(self.folder, executor, self.options.policy, progress)
            return scheduler.run(waiting)

    def _executor(self) -> Executor:
        address = self.options.ray_address
        if address is None:
            return LocalExecutor(self.folder, capacity(self.options.jobs), self.options.limits)
        from testbed.sweep.ray_executor import RayExecutor  # noqa: PLC0415 (an extra)

        return RayExecutor(self.folder, address, self.options.limits)


def not_done(points: Sequence[PlannedPoint], folder: SweepDir) -> list[PlannedPoint]:
    """Give the points that are not complete."""
    done = folder.done()
    return [point for point in points if point.identity not in done]


def check_records(records: Mapping[str, PointRecord], points: Sequence[PlannedPoint]) -> None:
    """Check that every point that was run is complete.

    Args:
        records: How points ended, by identity.
        points: All points of the sweep.

    Raises:
        TestbedError: Points failed; names the first one.
    """
    failed = [record for record in records.values() if record.state != "completed"]
    if failed:
        first = failed[0]
        raise TestbedError(
            f"{len(failed)} of {len(unique(points))} points failed; "
            f"the first is {first.name}: {first.reason}"
        )


def default_folder(experiment: Experiment) -> Path:
    """Name the folder of a sweep below ``results``."""
    return Path("results", f"sweep-{experiment.name}")
