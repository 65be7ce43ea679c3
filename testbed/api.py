"""Runs from Python: what the command line does, with typed results.

import testbed

run = testbed.run("two-sites", "collectives", isolation="process", seed=3)
print(run.summary.collectives[0].time_us.median)
print(run.operations.group_by("op").len())
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.core.errors import InputError, Place
from testbed.execution.launch import launch
from testbed.execution.requirements import require_packages
from testbed.execution.supervise import Progress
from testbed.measure.capture import check_filter
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_summary
from testbed.spec.options import NS_PER_S, RunOptions
from testbed.spec.overrides import Override
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, load_workload

if TYPE_CHECKING:
    import polars as pl

RESULTS = Path("results")


class SilentProgress:
    """The progress of a run, shown nowhere."""

    def building(self, what: str, part: float) -> None:
        """Ignore that the guest kernel is being built."""

    def stage(self, name: str) -> None:
        """Ignore that a stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Ignore how many operations or steps are done."""

    def measured(self) -> None:
        """Ignore that the results are written."""


class Run:
    """A run folder, read on demand.

    Attributes:
        path: The folder.
    """

    def __init__(self, folder: RunDir) -> None:
        """Read from `folder`."""
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def plan(self) -> Plan:
        """What was done, in base units."""
        return self._folder.read_plan()

    @cached_property
    def summary(self) -> Summary:
        """What was measured; `problems` also names what of the file is damaged.

        Raises:
            InputError: There is no summary.json.
        """
        summary, damage = read_summary(self._folder.summary)
        codes = [problem.code for problem in damage]
        if ProblemCode.FILE_MISSING in codes:
            remedy = f"run `testbed report {self.path}` to create it"
            raise InputError("no summary.json", place=Place(self.path), remedy=remedy)

        problems = [*summary.problems, *damage]
        return summary.model_copy(update={"problems": problems})

    @cached_property
    def status(self) -> Status:
        """How the run ended, and whether its timing is faithful.

        Raises:
            InputError: status.json is missing or damaged.
        """
        status, problems = read_status(self._folder.status)
        if status is None:
            reason = "; ".join(str(problem) for problem in problems)
            raise InputError(reason or "status.json is damaged", place=Place(self.path))
        return status

    @cached_property
    def operations(self) -> pl.DataFrame:
        """A row for each operation and rank; columns as `testbed.runfolder.schemas.OPS`."""
        return self._table(self._folder.ops, "the run recorded no operations")

    @cached_property
    def links(self) -> pl.DataFrame:
        """Samples of each direction of a WAN link; columns as `testbed.runfolder.schemas.LINKS`."""
        return self._table(self._folder.links, "the run recorded no samples of links")

    @cached_property
    def steps(self) -> pl.DataFrame:
        """A row for each training step and rank; columns as `testbed.runfolder.schemas.TRAIN`."""
        return self._table(self._folder.train, "only the workload train has steps")

    @cached_property
    def flows(self) -> pl.DataFrame:
        """A row for each TCP connection, direction and WAN link; see docs/captures.md."""
        return self._table(self._folder.flows, "only runs with captures have flows")

    def _table(self, path: Path, why_missing: str) -> pl.DataFrame:
        """Read a Parquet file of the run folder.

        Raises:
            InputError: There is no such file, or it is damaged.
        """
        import polars as pl  # noqa: PLC0415 (0.3 s, which starting a run need not wait for)

        if not path.is_file():
            raise InputError(f"no {path.name}", place=Place(path), remedy=why_missing)
        try:
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            remedy = f"run `testbed report {self.path}` to regenerate it"
            raise InputError(f"cannot read {path}: {error}", remedy=remedy) from error


def open_run(path: str | Path) -> Run:
    """Open the folder of a run that was made before.

    Raises:
        InputError: `path` is not a run folder.
    """
    return Run(RunDir.open(Path(path)))


@dataclass(frozen=True)
class PreparedRun:
    """A run that has been checked and can start.

    Attributes:
        topology: What is built.
        workload: What runs.
        options: How it runs.
        plan: All of that, in base units.
    """

    topology: Topology
    workload: Workload
    options: RunOptions
    plan: Plan

    def new_folder(self, path: str | Path | None = None) -> RunDir:
        """Make the run folder; None: below ``results``, named by the time, topology and workload.

        Raises:
            InputError: The folder exists and holds something, or cannot be made.
            MachineError: The packages of the extra "run" are not installed.
        """
        require_packages()
        if path is None:
            path = default_folder(self.topology.name, self.workload.workload)
        return RunDir.create(Path(path))

    def start(
        self, folder: RunDir, progress: Progress | None = None, command: Sequence[str] | None = None
    ) -> Run:
        """Carry out the run, and return when its results are written.

        Args:
            folder: A new run folder.
            progress: Follows the run; None: nothing does.
            command: The command line that status.json records; None: that of this process.

        Raises:
            TestbedError: The run failed; status.json says the same.
        """
        topology_yaml = self.topology.to_yaml()
        workload_yaml = self.workload.to_yaml()
        launch(
            self.plan,
            folder,
            spec=f"# topology\n{topology_yaml}---\n# workload\n{workload_yaml}",
            command=sys.argv if command is None else command,
            stall_limit_s=self.options.stall_limit / NS_PER_S,
            progress=progress or SilentProgress(),
        )
        return Run(folder)


def default_folder(topology: str, workload: str) -> Path:
    """Name a run folder below ``results`` by the time, the topology and the workload."""
    now = time.strftime("%Y%m%d-%H%M%S")
    names = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{topology}-{workload}")
    return RESULTS / f"{now}-{names}"


def prepare(topology: Topology, workload: Workload, options: RunOptions) -> PreparedRun:
    """Check a run and make its plan; start nothing.

    Raises:
        InputError: The run is not possible as described.
        MachineError: Captures have a filter, and there is no tcpdump to check the filter.
    """
    if options.capture_filter:
        check_filter(options.capture_filter)
    return PreparedRun(topology, workload, options, resolve(topology, workload, options))


def run(
    topology: str | Path | Topology,
    workload: str | Path | Workload = "collectives",
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Run a workload on a topology, and return when the results are written.

    Args:
        topology: A preset's name, the path of a file, or a topology made in Python.
        workload: A preset's name, the path of a file, or a workload made in Python.
        settings: Values to change, as after ``--set``: {"topology.wan.iowa-ohio.delay": "20 ms"}.
        out: The run folder, which must not exist; None: a new one below ``results``.
        progress: Follows the run; None: nothing does.
        options: Every option of `testbed.spec.options.RunOptions`, such as ``isolation="process"``.

    Raises:
        InputError: An argument is wrong.
        MachineError: This machine lacks something that the run needs.
        TestbedError: The run failed.
    """
    run_options = RunOptions(**options)
    overrides = _sort_settings(settings or {})
    topology_model = _as_topology(topology, overrides["topology"])
    workload_model = _as_workload(workload, overrides["workload"])

    prepared = prepare(topology_model, workload_model, run_options)
    folder = prepared.new_folder(out)
    return prepared.start(folder, progress)


def _sort_settings(settings: Mapping[str, Any]) -> dict[str, list[Override]]:
    """The settings as overrides of the topology and of the workload."""
    overrides: dict[str, list[Override]] = {"topology": [], "workload": []}
    for key, value in settings.items():
        place = Place(f"settings {key}")
        target, *path = key.split(".")
        if target not in overrides or not path:
            remedy = "start the key with topology. or workload."
            raise InputError(f"{key!r} is not a valid setting", place=place, remedy=remedy)

        override = Override(key, tuple(path), value, place)
        overrides[target].append(override)
    return overrides


def _as_topology(topology: str | Path | Topology, overrides: Sequence[Override]) -> Topology:
    if not isinstance(topology, Topology):
        return Topology.load(topology, overrides)
    _refuse_settings(overrides)
    return topology


def _as_workload(workload: str | Path | Workload, overrides: Sequence[Override]) -> Workload:
    if not isinstance(workload, Workload):
        return load_workload(workload, overrides)
    _refuse_settings(overrides)
    return workload


def _refuse_settings(overrides: Sequence[Override]) -> None:
    """Refuse to change a model that was made in Python."""
    for override in overrides:
        raise InputError(
            "settings apply to a preset or a file, not to a model",
            place=override.place,
            remedy="set the value where the model is created",
        )
