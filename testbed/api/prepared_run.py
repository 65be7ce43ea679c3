"""Check a run before anything is started, and start it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from testbed.api.completed_run import Run
from testbed.core.errors import InputError, Place
from testbed.core.units import UnitError
from testbed.execution.launch import launch
from testbed.execution.limits import RunLimits
from testbed.execution.machines import Machines
from testbed.execution.progress import SilentProgress
from testbed.execution.requirements import require_packages
from testbed.execution.supervise import Progress
from testbed.measure.capture import check_filter
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.runfolder.folder import RunDir
from testbed.spec.base import input_error
from testbed.spec.options import RunOptions
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, changed_workload
from testbed.sweep.sweep_run import CLUSTER_MEMORY

RESULTS = Path("results")
SCRIPT = Place("script")  # the argument of `run`


@dataclass(frozen=True)
class PreparedRun:
    """A checked run, ready to start.

    Attributes:
        topology: The network to build.
        workload: The workload to run.
        options: Options of the run.
        plan: Topology, workload and options, resolved to base units.
    """

    topology: Topology
    workload: Workload
    options: RunOptions
    plan: Plan

    def changed(self, words: Sequence[str]) -> PreparedRun:
        """Return the run with other values of some settings.

        Args:
            words: Settings as ``KEY=VALUE``, as after ``--set``.

        Raises:
            InputError: A setting does not exist, or the run is not possible with it.
        """
        overrides = parse_overrides(words, ["topology", "workload"])
        topology = Topology.from_yaml(self.topology.to_yaml(), overrides["topology"])
        workload = changed_workload(self.workload, overrides["workload"])
        return prepare(topology, workload, self.options)

    def new_folder(self, path: str | Path | None = None) -> RunDir:
        """Create the run folder.

        Args:
            path: Path of the folder; None: a new one below ``results``, named by time, topology and
                workload.

        Raises:
            InputError: The folder exists and is not empty, or cannot be created.
            MachineError: The packages of the extra "run" are not installed.
        """
        require_packages()
        if path is None:
            path = default_folder(self.topology.name, self.workload.workload)
            return RunDir.create_unused(path)
        return RunDir.create(Path(path))

    def start(
        self, folder: RunDir, progress: Progress | None = None, command: Sequence[str] | None = None
    ) -> Run:
        """Carry out the run, and return it once its results are written.

        Args:
            folder: A new run folder.
            progress: Receives the progress of the run; None: no progress is reported.
            command: Command line that status.json records; None: the command line of this process.

        Raises:
            TestbedError: The run failed; status.json holds the same message.
        """
        topology_yaml = self.topology.to_yaml()
        workload_yaml = self.workload.to_yaml()
        launch(
            self.plan,
            folder,
            spec=f"# topology\n{topology_yaml}---\n# workload\n{workload_yaml}",
            command=sys.argv if command is None else command,
            limits=RunLimits(*self.options.limits_s),
            progress=progress or SilentProgress(),
            machines=_machines(self.options.ray),
        )
        return Run(folder)


def _machines(address: str | None) -> Machines | None:
    """Return the machines of a Ray cluster; None without an address.

    Raises:
        MachineError: Ray is not installed.
    """
    if address is None:
        return None
    from testbed.execution.ray_machines import RayMachines  # noqa: PLC0415 (an extra)

    return RayMachines(address)


def default_folder(topology: str, workload: str) -> Path:
    """Return a path below ``results`` named by the time, the topology and the workload."""
    now = time.strftime("%Y%m%d-%H%M%S")
    names = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{topology}-{workload}")
    return RESULTS / f"{now}-{names}"


def prepare(topology: Topology, workload: Workload, options: RunOptions) -> PreparedRun:
    """Check a run and make its plan, without starting anything.

    Args:
        topology: The network to build.
        workload: The workload to run.
        options: Options of the run.

    Returns:
        The checked run, with its plan.

    Raises:
        InputError: The run is not possible as described.
        MachineError: A capture filter is set, but tcpdump, which checks filters, is not installed.

    Example:
        ```python
        topology = testbed.Topology.load("two-sites")
        prepared = testbed.prepare(topology, load_workload("collectives"), RunOptions())
        print(prepared.plan.guest_memory_bytes)
        ```
    """
    if options.capture_filter:
        check_filter(options.capture_filter)
    memory_bytes = None if options.ray is None else CLUSTER_MEMORY
    plan = resolve(topology, workload, options, machine_memory_bytes=memory_bytes)
    return PreparedRun(topology, workload, options, plan)


def script_workload(
    words: Sequence[str],
    settings: Mapping[str, object],
    *,
    in_image: bool,
    place: Place = SCRIPT,
) -> Workload:
    """Return a workload that runs the user's script.

    Args:
        words: The script and its arguments.
        settings: Values of other fields of `testbed.workloads.script.settings.Script`.
        in_image: Whether the script's programs come from a container image, not from this machine.
        place: The place that errors name.

    Raises:
        InputError: The script does not exist, or a setting is wrong.
    """
    from testbed.workloads.script.settings import Script  # noqa: PLC0415 (only scripts)

    try:
        script: Script = Script.model_validate({"command": list(words), **settings})
        if not in_image:
            script.check_installed()
        elif script.gpu is not None:
            raise UnitError(
                "modelled GPUs need the torch of this machine", "remove --image or --gpu"
            )
    except ValidationError as error:
        raise input_error(error, Script, lambda loc: place) from error
    except UnitError as error:
        raise InputError(error.what, place=place, remedy=error.remedy) from error
    work: Workload = script
    return work
