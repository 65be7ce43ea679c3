"""Runs, sweeps and deployments from Python, with typed results.

Every name of this module is also a name of the package, as in ``testbed.run(...)``.

    import testbed

    run = testbed.run("two-sites", "collectives", isolation="process", seed=3)
    print(run.collectives.select("op", "bytes", "time_us", "bound_us"))
    print(run.operations.group_by("op").len())

Errors are exceptions with the same messages as on the command line: `testbed.InputError` for a
wrong argument, `testbed.MachineError` if this machine lacks a requirement, `testbed.RunError` and
`testbed.GuestLost` if a run fails. All are subclasses of `testbed.TestbedError`. Ctrl-C raises
KeyboardInterrupt after the folder of the run or the sweep has reached its final state.
"""

from __future__ import annotations

import inspect
import io
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import ValidationError

from testbed.analysis.advice import Proposal
from testbed.analysis.measured_changes import ChangedRun, MeasuredChange, measure_changes
from testbed.core.errors import (
    GuestLost,
    InputError,
    Place,
    TestbedError,
    Unfaithful,
    UnfaithfulWarning,
    reading,
)
from testbed.core.suggestions import suggest
from testbed.core.units import UnitError
from testbed.deployments import service
from testbed.deployments.client import INTERRUPTED, call, exec_request
from testbed.deployments.folder import Deployment
from testbed.deployments.input_source import BytesSource
from testbed.deployments.reconfigure import change
from testbed.deployments.status import DeploymentStatus, status_of
from testbed.execution.cleanup import reap
from testbed.execution.launch import launch
from testbed.execution.limits import RunLimits
from testbed.execution.progress import RunProgress as RunProgress, SilentProgress, as_progress
from testbed.execution.requirements import require_packages
from testbed.execution.supervise import Progress
from testbed.guest.kernel import Kernel, ensure_kernel
from testbed.measure.capture import check_filter
from testbed.plan.model import Clock, Plan
from testbed.plan.resolve import resolve
from testbed.runfolder.folder import RunDir
from testbed.runfolder.problems import ProblemCode
from testbed.runfolder.status import Status, read_status
from testbed.runfolder.summary import Summary, read_summary
from testbed.spec import yaml_reader
from testbed.spec.base import input_error
from testbed.spec.experiment import Experiment, GivenTopology
from testbed.spec.functions import script_of
from testbed.spec.options import RunOptions
from testbed.spec.overrides import Override, parse_overrides
from testbed.spec.question import is_question, question
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, changed_workload, load_workload
from testbed.sweep import find_run, sweep_run
from testbed.sweep.answers import Answer as Answer, answer_record, read_answers
from testbed.sweep.find_run import FindRun
from testbed.sweep.folder import SweepDir
from testbed.sweep.index import IndexedPoint, key_columns
from testbed.sweep.outcome import Outcome, is_unfaithful
from testbed.sweep.points import check_size
from testbed.sweep.progress import PointProgress as PointProgress, shown_by
from testbed.sweep.run_point import Limits
from testbed.sweep.scheduler import Policy
from testbed.sweep.sweep_run import SweepOptions, SweepRun

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import polars as pl

    from testbed.sweep.results import SweepTables

RESULTS = Path("results")
SCRIPT = Place("script")  # the argument of `run`
FUNCTION_FOLDER = "function"  # subfolder of a run folder, with the script that calls a function


class Run:
    """A run folder, read on demand.

    Notebooks display a run as its verdict, its table of collectives and the path of its report.

    Example:
        ```python
        run = testbed.open_run("results/20260101-120000-two-sites-collectives")
        print(run.status.state, run.summary.collectives[0].time_us.median)
        ```

    Attributes:
        path: The run folder.
    """

    def __init__(self, folder: RunDir) -> None:
        """Read the run from its folder."""
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        path = repr(str(self.path))
        status, _problems = read_status(self._folder.status)
        if status is None or status.faithful is not False:
            return f"Run({path})"
        doubts = ", ".join(status.doubts)
        return f"Run({path}, NOT FAITHFUL: {doubts})"

    def _repr_html_(self) -> str:
        from testbed.report.notebook import run_html  # noqa: PLC0415 (only notebooks)

        return run_html(self._folder)

    @cached_property
    def plan(self) -> Plan:
        """The plan of the run, in base units (plan.json)."""
        return self._folder.read_plan()

    @cached_property
    def summary(self) -> Summary:
        """The measurements (summary.json); `problems` also lists damaged parts of the file.

        Raises:
            InputError: Summary.json does not exist.
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
        """The outcome of the run, and whether its timing is faithful (status.json).

        Raises:
            InputError: Status.json is missing or damaged.
        """
        status, problems = read_status(self._folder.status)
        if status is None:
            reason = "; ".join(str(problem) for problem in problems)
            raise InputError(reason or "status.json is damaged", place=Place(self.path))
        return status

    @property
    def faithful(self) -> bool | None:
        """Whether the figures are those of the plan; None: the run was not judged.

        ``status.warnings`` says why a run is not faithful.
        """
        return self.status.faithful

    def check_faithful(self) -> None:
        """Check that the run is not known to be unfaithful.

        Raises:
            Unfaithful: The run is not faithful; the message says why.
        """
        if self.faithful is False:
            reasons = "\n".join(f"  {warning}" for warning in self.status.warnings)
            raise Unfaithful(f"the run {self.path} is not faithful\n{reasons}")

    @cached_property
    def collectives(self) -> pl.DataFrame:
        """One row per operation and size (columns: `testbed.runfolder.tables.COLLECTIVES`).

        `time_us` is the median over the iterations, `bound_us` the least time that the topology
        allows; both in microseconds.
        """
        from testbed.runfolder.tables import collectives_table  # noqa: PLC0415 (polars: 0.3 s)

        return collectives_table(self.summary)

    @cached_property
    def operations(self) -> pl.DataFrame:
        """One row per operation and rank (columns: `testbed.runfolder.schemas.OPS`)."""
        return self._table(self._folder.ops, "the run recorded no operations")

    @cached_property
    def links(self) -> pl.DataFrame:
        """Samples of each direction of a WAN link (columns: `testbed.runfolder.schemas.LINKS`)."""
        return self._table(self._folder.links, "the run recorded no samples of links")

    @cached_property
    def steps(self) -> pl.DataFrame:
        """One row per training step and rank (columns: `testbed.runfolder.schemas.TRAIN`)."""
        return self._table(self._folder.train, "only the workload train has steps")

    @cached_property
    def gpu_steps(self) -> pl.DataFrame:
        """One row per training step and rank on modelled GPUs (columns: `schemas.GPU`).

        The totals are in `summary.gpu`: MFU, tokens per second, waits for operations, memory.
        """
        return self._table(self._folder.gpu, "only runs with modelled GPUs have these steps")

    @cached_property
    def flows(self) -> pl.DataFrame:
        """One row per TCP connection, direction and WAN link (columns: docs/captures.md)."""
        return self._table(self._folder.flows, "only runs with captures have flows")

    def report(self) -> Path:
        """Return the path of report.html, and regenerate the report if the file is missing.

        Returns:
            Path of report.html, a page that works offline.

        Raises:
            InputError: The report is missing, and the run's plan cannot be read.

        Example:
            ```python
            webbrowser.open(run.report().as_uri())
            ```
        """
        if not self._folder.report.is_file():
            from testbed.report.make import make_again, open_readable  # noqa: PLC0415 (plotly)

            make_again(open_readable(self.path))
        return self._folder.report

    def plot(self, figure: str | None = None) -> go.Figure:
        """Return a figure of the run, which notebooks show.

        Args:
            figure: Name of the figure: latency, matrix, loss, utilisation, queue, ranks or steps;
                None: the first one that has data.

        Raises:
            InputError: There is no such figure, or it has no data.

        Example:
            ```python
            run.plot("ranks").write_html("ranks.html")
            ```
        """
        from testbed.report.figures.white import on_white  # noqa: PLC0415 (plotly)
        from testbed.report.load import load  # noqa: PLC0415
        from testbed.report.paper.choice import choose_figures  # noqa: PLC0415
        from testbed.report.paper.run_figures import draw_run  # noqa: PLC0415

        with reading(self.path):
            drawn = choose_figures(draw_run(load(self._folder)), figure, ".pdf")
        return on_white(next(iter(drawn.values())))

    def export(
        self,
        to: Literal["csv", "tensorboard", "chakra", "wandb", "mlflow"],
        out: str | Path | None = None,
    ) -> list[Path]:
        """Write the measurements for other tools.

        Args:
            to: csv: a file for each table. tensorboard: an event file. chakra: an execution trace
                of each rank. wandb: offline files. mlflow: a store. All but csv need the extra of
                their name.
            out: Folder for the files; None: a folder in the run folder, named by the format.

        Returns:
            Paths of the files.

        Raises:
            InputError: The format is unknown, or the run has no tables.
            MachineError: The library of the format is not installed.

        Example:
            ```python
            run.export("tensorboard", "logs/first")
            ```
        """
        from testbed.report.export.choice import export_run  # noqa: PLC0415 (polars)

        return export_run(self._folder, to, None if out is None else Path(out))

    def _table(self, path: Path, why_missing: str) -> pl.DataFrame:
        """Read a Parquet file of the run folder.

        Raises:
            InputError: The file does not exist or is damaged.

        Args:
            path: Path of the Parquet file.
            why_missing: Explanation for the error if the file does not exist.
        """
        # polars takes 0.3 s to import, which starting a run need not wait for
        from testbed.runfolder.tables import read_table  # noqa: PLC0415

        if not path.is_file():
            raise InputError(f"no {path.name}", place=Place(path), remedy=why_missing)
        try:
            return read_table(path)
        except OSError as error:
            remedy = f"run `testbed report {self.path}` to regenerate it"
            raise InputError(f"cannot read {path}: {error}", remedy=remedy) from error


def open_run(path: str | Path) -> Run:
    """Open the run folder of an earlier run.

    Args:
        path: The run folder.

    Returns:
        The run; each file is read on first access.

    Raises:
        InputError: `path` is not a run folder.

    Example:
        ```python
        run = testbed.open_run("results/20260101-120000-two-sites-collectives")
        ```
    """
    return Run(RunDir.open(Path(path)))


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
        )
        return Run(folder)


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
    return PreparedRun(topology, workload, options, resolve(topology, workload, options))


def run(
    topology: str | Path | Mapping[str, Any] | Topology,
    workload: str | Path | Workload | Callable[[], object] | None = None,
    *,
    script: Sequence[str | Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress | Callable[[RunProgress], object] | None = None,
    ranks_per_host: int | None = None,
    shared_folder: bool | None = None,
    events_from: Literal["operation", "start"] | None = None,
    gpu: str | None = None,
    gpus_per_host: int | None = None,
    comm: Literal["nccl", "gloo"] | None = None,
    scale: int | None = None,
    **options: Any,
) -> Run:
    """Run a workload, a script or a function on a topology, and return the completed run.

    Every rank calls a function once, in the environment that torchrun gives a script: RANK,
    WORLD_SIZE, MASTER_ADDR and so on. The function takes no arguments, and its return value is
    discarded. Only the function's source is sent to a rank, so the function has to import its
    dependencies in its body and use no other name of its module. If the function does use other
    names, every rank imports the function from its module. The module then has to be an importable
    file (not a notebook, and not the script that calls `run`), in a folder that hosts can read.

    Args:
        topology: Name of a preset, path of a file, the contents of such a file as a dict, or a
            topology made in Python.
        workload: Name of a preset, path of a file, a workload made in Python, or a function.
            None: collectives, unless `script` is given.
        script: Your own script with its arguments, as after ``--`` on the command line:
            ["train.py", "--lr", "3e-4"].
        settings: Values to change, as after ``--set``: {"topology.wan.iowa-ohio.delay": "20 ms"}.
        out: The run folder, which must not exist; None: a new one below ``results``.
        progress: A function that is called with each new `RunProgress`, such as ``print``; an
            exception in the function ends the run. Or a display with the methods of
            `testbed.execution.supervise.Progress`. None: no progress is reported.
        ranks_per_host: Number of ranks on each host, for a script or a function; None: 1.
        shared_folder: Whether all hosts share one working folder, for a script or a function.
        events_from: Start of the topology's event times, for a script or a function: rank 0's first
            operation or rank 0's start; None: operation.
        gpu: Kind of the GPUs to model, such as "H100" or "mine.yaml", for a script or a function
            that uses CUDA and NCCL (docs/gpus.md); None: hosts have no GPUs.
        gpus_per_host: Number of modelled GPUs of each host, each with a rank; None: 1.
        comm: Library whose algorithms modelled GPUs use; None: nccl.
        scale: Divisor of the bytes of modelled GPUs on the wire, and of all rates; None: 1.
        **options: Any option of `testbed.spec.options.RunOptions`, such as
            ``isolation="process"`` or ``seed=3``.

    Returns:
        The completed run.

    Raises:
        InputError: An argument is wrong.
        MachineError: This machine lacks a requirement of the run.
        RunError: The run failed. A note of the exception names the run folder, which holds the
            measurements up to the failure.
        GuestLost: The guest ended without a result.
        KeyboardInterrupt: Ctrl-C; status.json records the interruption.

    Example:
        ```python
        def all_reduce() -> None:
            import torch
            import torch.distributed as dist

            dist.init_process_group("gloo")
            dist.all_reduce(torch.ones(1024))
            dist.destroy_process_group()

        run = testbed.run("two-sites", all_reduce, isolation="process", progress=print)
        print(run.collectives)
        ```
    """
    display = as_progress(progress)
    prepared, folder = _prepare_in_folder(
        topology,
        workload,
        script=script,
        settings=settings,
        out=out,
        ranks_per_host=ranks_per_host,
        shared_folder=shared_folder,
        events_from=events_from,
        gpu=gpu,
        gpus_per_host=gpus_per_host,
        comm=comm,
        scale=scale,
        **options,
    )
    return _start(prepared, folder, display)


@dataclass(frozen=True)
class Advice:
    """A run, and the changes that the main cause of its time gave a reason for, each measured.

    Attributes:
        run: The completed run.
        changes: The changes with their times, in the order in which they were tried; empty if
            nothing is known that could help.
    """

    run: Run
    changes: list[MeasuredChange]

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row per change, with the attributes of a change as columns; times are in ms.

        `settings` has the changed values as words of a shell, to follow ``--set``.
        """
        from testbed.runfolder.tables import changes_table  # noqa: PLC0415 (polars: 0.3 s)

        return changes_table(change.row() for change in self.changes)


def advise(
    topology: str | Path | Mapping[str, Any] | Topology,
    workload: str | Path | Workload | Callable[[], object] | None = None,
    *,
    progress: Progress | Callable[[RunProgress], object] | None = None,
    **arguments: Any,
) -> Advice:
    """Run as `run` does, then measure each change that the main cause of the time suggests.

    Each change is a further run, in the folder of the first run with ``-advice-1`` and so on at the
    end of its name. A change that is refused or whose run fails is listed with its error.

    Args:
        topology: As for `run`.
        workload: As for `run`.
        progress: As for `run`; receives the progress of each run.
        **arguments: Any other argument of `run`, such as ``settings`` or ``isolation``.

    Returns:
        The run and the measured changes.

    Raises:
        TestbedError: The first run is not possible, or failed, as for `run`.

    Example:
        ```python
        advice = testbed.advise("two-sites", "collectives", isolation="process")
        print(advice.table.select("settings", "base_ms", "changed_ms", "change_percent"))
        ```
    """
    display = as_progress(progress)
    prepared, folder = _prepare_in_folder(topology, workload, **arguments)
    base = _start(prepared, folder, display)

    def carry_out(proposal: Proposal, path: Path) -> ChangedRun:
        try:
            changed = prepared.changed(proposal.words)
            changed_folder = changed.new_folder(path)
        except TestbedError as error:
            return ChangedRun(None, str(error))

        try:
            changed.start(changed_folder, display)
        except TestbedError as error:
            return ChangedRun(changed_folder, str(error))
        return ChangedRun(changed_folder)

    changes = measure_changes(base.path, base.plan, base.summary, carry_out)
    return Advice(base, list(changes))


def _prepare_in_folder(
    topology: str | Path | Mapping[str, Any] | Topology,
    workload: str | Path | Workload | Callable[[], object] | None,
    *,
    script: Sequence[str | Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    ranks_per_host: int | None = None,
    shared_folder: bool | None = None,
    events_from: Literal["operation", "start"] | None = None,
    gpu: str | None = None,
    gpus_per_host: int | None = None,
    comm: Literal["nccl", "gloo"] | None = None,
    scale: int | None = None,
    **options: Any,
) -> tuple[PreparedRun, RunDir]:
    """Check the arguments of `run`, and return the prepared run with its new folder."""
    reap()
    overrides = _sort_settings(settings or {}, ["topology", "workload"])
    run_options = RunOptions(**options)
    topology_model = _as_topology(topology, overrides["topology"])
    script_settings = {
        "ranks_per_host": ranks_per_host,
        "shared_folder": shared_folder,
        "events_from": events_from,
        "gpu": gpu,
        "gpus_per_host": gpus_per_host,
        "comm": comm,
        "scale": scale,
    }
    script_settings = {key: value for key, value in script_settings.items() if value is not None}

    is_function = callable(workload)
    if script is None and not is_function:
        _refuse_script_settings(script_settings)
        name_or_model = "collectives" if workload is None else workload
        assert not callable(name_or_model)
        job = _as_workload(name_or_model, overrides["workload"])
        prepared = prepare(topology_model, job, run_options)
        return prepared, prepared.new_folder(out)

    _refuse_workload_settings(overrides["workload"])
    if script is None:
        assert callable(workload)
        if out is None:
            default = default_folder(topology_model.name, _name_of(workload))
            folder = RunDir.create_unused(default)
        else:
            folder = RunDir.create(Path(out))
        prepared = _prepare_function(workload, topology_model, run_options, script_settings, folder)
        return prepared, folder

    if workload is not None:
        raise InputError(
            f"cannot run both a workload ({_name_of(workload)}) and a script ({script[0]})",
            remedy="remove one of them",
        )
    in_image = run_options.image is not None
    job = script_workload([str(word) for word in script], script_settings, in_image=in_image)
    prepared = prepare(topology_model, job, run_options)
    return prepared, prepared.new_folder(out)


def _prepare_function(
    function: Callable[[], object],
    topology: Topology,
    options: RunOptions,
    script_settings: Mapping[str, object],
    folder: RunDir,
) -> PreparedRun:
    """Prepare to run a function on every rank, by a script that is kept in the new run folder."""
    try:
        require_packages()
        script = script_of(function)
        readable = [*options.readable, *script.readable]
        file = folder.path / FUNCTION_FOLDER / script.name
        file.parent.mkdir()
        file.write_text(script.text)
        job = script_workload([str(file)], script_settings, in_image=options.image is not None)
        values = {name: getattr(options, name) for name in options.model_fields_set}
        values["readable"] = readable
        return prepare(topology, job, RunOptions(**values))
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)  # nothing has begun
        raise


def _start(prepared: PreparedRun, folder: RunDir, progress: Progress) -> Run:
    """Carry out a run; errors get a note that names the run folder."""
    try:
        completed = prepared.start(folder, progress)
    except (TestbedError, KeyboardInterrupt) as error:
        error.add_note(f"the run folder is {folder.path}")
        raise
    status, _problems = read_status(folder.status)
    if status is not None and status.faithful is False:
        _warn_unfaithful(repr(completed))
    return completed


def _warn_unfaithful(text: str) -> None:
    """Warn the caller of this module that results are not faithful."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
        level += 1
    warnings.warn(text, UnfaithfulWarning, stacklevel=level)


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


class Sweep:
    """The folder of a sweep, read on demand.

    Notebooks display a sweep as its number of points, its points table and the path of its page.

    Example:
        ```python
        sweep = testbed.open_sweep("results/sweep-allreduce-rtt-rate")
        print(sweep.points.select("delay", "rate", "time_us", "bound_us"))
        ```

    Attributes:
        path: The sweep folder.
    """

    def __init__(self, folder: SweepDir) -> None:
        """Read the sweep from its folder."""
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        warning = self._outcome.warning()
        if not warning:
            return f"Sweep({str(self.path)!r})"
        return f"Sweep({str(self.path)!r}, {warning})"

    @property
    def _outcome(self) -> Outcome:
        return Outcome.of(self.points.columns, self.points.rows())

    @property
    def unfaithful(self) -> list[str]:
        """Names of the complete points that are not faithful; `points` says why (``doubts``)."""
        rows = self.points.rows(named=True)
        return [row["point"] for row in rows if is_unfaithful(row)]

    def check_faithful(self) -> None:
        """Check that no complete point is known to be unfaithful.

        Raises:
            Unfaithful: Points are not faithful; the message says how many and why.
        """
        self._outcome.check_faithful()

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        index = self._folder.read_index()
        table = self.points
        outcome = self._outcome
        has_doubts = outcome.unfaithful > 0
        columns = ["point", *key_columns(table.columns, index, has_doubts=has_doubts)]
        counts: list[str] = []
        for state, count in (
            ("completed", outcome.completed),
            ("failed", outcome.failed),
            ("damaged", outcome.damaged),
            ("missing", outcome.missing),
        ):
            if count:
                counts.append(f"{count} {state}")
        sentence = f"{index.name}: {table.height} points, {', '.join(counts)}"
        parts = [
            notebook.warning(outcome.warning()),
            notebook.paragraph(sentence),
            notebook.rows_html(columns, table.select(columns).rows()),
            notebook.files({"report": self._folder.page}),
        ]
        return notebook.box(parts)

    @cached_property
    def _tables(self) -> SweepTables:
        from testbed.sweep.results import gather  # noqa: PLC0415 (polars: 0.3 s)

        return gather(self._folder)

    @property
    def points(self) -> pl.DataFrame:
        """One row per point, complete or not; `testbed.sweep.results` lists the columns.

        Each swept key has a column under its short name with the value as written. A quantity also
        has a column in base units (``delay_ns``). ``state`` is completed, failed,
        damaged or missing.
        """
        return self._tables.points

    @property
    def collectives(self) -> pl.DataFrame:
        """One row per point, operation and size; `testbed.sweep.results` lists the columns."""
        return self._tables.collectives

    def plot(
        self,
        figure: int = 1,
        *,
        x: str | None = None,
        y: str | None = None,
        series: str | None = None,
        facet: str | None = None,
        heat: bool = False,
    ) -> go.Figure:
        """Return a figure of the sweep, which notebooks show.

        Args:
            figure: Number of the figure of the experiment, from 1.
            x: Column of the horizontal axis. With any of `x`, `y`, `series`, `facet` and `heat`,
                the figure shows these columns instead, as `testbed sweep plot` does.
            y: Column of numbers.
            series: Column with a line for each value.
            facet: Column with a panel for each value.
            heat: Whether to draw a heat map.

        Raises:
            InputError: There is no such figure or column, or no complete point has its values.

        Example:
            ```python
            sweep.plot(x="delay", y="time_us", series="algorithm")
            ```
        """
        from testbed.report.figures.white import on_white  # noqa: PLC0415 (plotly)
        from testbed.sweep.figures import draw  # noqa: PLC0415
        from testbed.sweep.plots import PlotRequest, choose_plots  # noqa: PLC0415

        request = PlotRequest(x=x, y=y, series=series, facet=facet, heat=heat)
        plots = choose_plots(self._folder.read_index(), self.points, request)
        if not 1 <= figure <= len(plots):
            titles = ", ".join(f"{number}: {plot.heading}" for number, plot in enumerate(plots, 1))
            raise InputError(f"there is no figure {figure}", remedy=f"choose one of: {titles}")
        drawn = draw(plots[figure - 1], self.points, self.collectives)
        if drawn is None:
            raise InputError("nothing to draw: no complete point has these values")
        return on_white(drawn)

    def report(self) -> Path:
        """Return the path of sweep.html, and regenerate the page if the file is missing.

        Returns:
            Path of sweep.html, a page that works offline.

        Example:
            ```python
            webbrowser.open(sweep.report().as_uri())
            ```
        """
        if not self._folder.page.is_file():
            from testbed.sweep.outputs import write_outputs  # noqa: PLC0415

            write_outputs(self._folder)
        return self._folder.page

    def run(self, point: str | int) -> Run:
        """Open the run of a point.

        Args:
            point: Name of the point, or the number of its row in `points`.

        Returns:
            The run of the point, completed or failed.

        Raises:
            InputError: The point does not exist or has not run.

        Example:
            ```python
            run = sweep.run("delay-20ms")
            ```
        """
        indexed = self._indexed(point)
        folders = self._folder.failures()
        folders.update(self._folder.done())
        if indexed.identity not in folders:
            raise InputError(
                f"the point {indexed.name} has not been run",
                place=Place(self.path),
                remedy="run the sweep again to resume it",
            )
        return open_run(folders[indexed.identity])

    def _indexed(self, point: str | int) -> IndexedPoint:
        """Find a point by its name or its row number.

        Raises:
            InputError: The point does not exist.
        """
        points = self._folder.read_index().points
        if isinstance(point, int):
            if -len(points) <= point < len(points):
                return points[point]
            raise InputError(f"unknown point {point}: the sweep has {len(points)}")
        for indexed in points:
            if indexed.name == point:
                return indexed
        remedy = suggest(point, [indexed.name for indexed in points], "points")
        raise InputError(f"unknown point {point!r}", remedy=remedy)


def open_sweep(path: str | Path) -> Sweep:
    """Open the folder of a sweep, complete or not.

    Args:
        path: The sweep folder.

    Returns:
        The sweep; each file is read on first access.

    Raises:
        InputError: `path` is not the folder of a sweep.

    Example:
        ```python
        sweep = testbed.open_sweep("results/sweep-allreduce-rtt-rate")
        ```
    """
    return Sweep(SweepDir.open(Path(path)))


def sweep(
    experiment: str | Path | Mapping[str, Any] | Experiment,
    *,
    topology: str | Path | Mapping[str, Any] | Topology | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    retry_damaged: bool = False,
    ray: str | None = None,
    confirmed: bool = False,
    check: bool = True,
    progress: Callable[[PointProgress], object] | None = None,
    **options: Any,
) -> Sweep:
    """Run the remaining points of an experiment, then make the tables and the page.

    Repeat the same call to resume an interrupted sweep. A point runs again only if its plan or a
    version has changed.

    Args:
        experiment: Name of a preset, path of a file, or the contents of such a file as a dict. In
            a dict, ``topology`` may be whatever `run` accepts.
        topology: Topology of all points, as for `run`; None: the experiment's.
        out: The sweep folder; None: ``results/sweep-<name>``.
        jobs: Number of guests that run in parallel; None: as many as CPUs and memory allow.
        settings: Values to change, as after ``--set``, with keys that begin with topology.,
            workload., run. or experiment.
        retries: Number of further attempts after a point has failed.
        timeout_s: Limit on the wall time of a point, in seconds; None: no limit.
        fail_fast: Whether to start no further point after one has failed.
        retry_damaged: Whether to run complete points again whose files cannot be read.
        ray: Address of the Ray cluster that runs the points, auto, or local; None: this machine.
        confirmed: Whether to accept a sweep of more than 1000 points.
        check: Whether failed points raise an exception, after the tables and the page are written.
        progress: A function that is called with a `PointProgress` whenever a point starts or ends,
            such as ``print``; an exception in the function ends the sweep.
        **options: Options of every run, such as ``isolation="process"``.

    Returns:
        The sweep.

    Raises:
        InputError: The experiment or an argument is wrong; no point has run.
        MachineError: This machine lacks a requirement of the sweep, or its disk is full.
        TestbedError: Points failed, and `check` is true.
        KeyboardInterrupt: Ctrl-C; completed points are kept.

    Example:
        ```python
        iowa = testbed.Datacenter(hosts=4)
        ohio = testbed.Datacenter(hosts=4)
        link = testbed.Wan(between=("iowa", "ohio"), rate="10 Gbit/s", delay="8 ms")
        topology = testbed.Topology(datacenters={"iowa": iowa, "ohio": ohio}, wan=[link])
        sweep = testbed.sweep(
            {
                "topology": topology,
                "settings": {"run.isolation": "process", "workload.sizes": ["4 KiB"]},
                "sweep": {"grid": {"topology.wan.iowa-ohio.delay": ["1 ms", "20 ms"]}},
            },
            out="results/distance",
            progress=print,
        )
        print(sweep.points.select("delay", "time_us"))
        ```
    """
    reap()
    overrides = _sort_settings(settings or {}, ["topology", "workload", "run", "experiment"])
    plan, topology_text = _as_experiment(experiment, topology, overrides["experiment"])
    check_size(plan, confirmed)
    _check_jobs(jobs)
    run_overrides = _overrides_of_points(overrides, options)
    path = Path(out) if out is not None else sweep_run.default_folder(plan)
    plan, kernel = _ready(plan, topology_text, path)
    sweep_options = SweepOptions(
        jobs, Limits(timeout_s), Policy(retries, fail_fast), ray, retry_damaged
    )
    with sweep_run.points_forked(sweep_options):
        points = sweep_run.plan_sweep(plan, kernel, run_overrides, ray)
        folder = SweepDir.create(path)
        started = SweepRun(plan, points, folder, sweep_options, command=sys.argv)
        records = started.carry_out(shown_by(progress), lambda rows: None)
    if check:
        sweep_run.check_records(records, points)
    finished = Sweep(folder)
    if finished.unfaithful:
        _warn_unfaithful(repr(finished))
    return finished


def _check_jobs(jobs: int | None) -> None:
    """Raise InputError if `jobs` is not a number of guests."""
    if jobs is not None and jobs < 1:
        what = f"{jobs!r} is not a valid number of guests"
        raise InputError(what, place=Place("jobs"), remedy="use None, or a number of at least 1")


def _overrides_of_points(
    overrides: Mapping[str, list[Override]], options: Mapping[str, Any]
) -> list[Override]:
    """Return the settings of all points, from settings by target and options of the run."""
    settings = [*overrides["topology"], *overrides["workload"], *overrides["run"]]
    for name, value in options.items():
        settings.append(Override(f"run.{name}", (name,), value, Place(name)))
    return settings


def _ready(
    experiment: Experiment, topology_text: str | None, path: Path
) -> tuple[Experiment, Kernel]:
    """Return an experiment whose topology, if it is given as a text, is kept in the folder `path`.

    Return the guest kernel as well, once this machine has what runs require.
    """
    if topology_text is not None:
        given = GivenTopology(topology_text, SweepDir(path).topology)
        experiment = experiment.with_topology(given)

    require_packages()
    return experiment, ensure_kernel()


class Found:
    """The answers of searches, and the folder of their runs.

    Notebooks display the answers as sentences, a table and the path of the page.

    Example:
        ```python
        found = testbed.open_find("results/find-least-rate")
        print(found.answers[0].value, found)
        ```

    Attributes:
        path: The folder, which is that of a sweep.
        sweep: All runs of the searches.
    """

    def __init__(self, folder: SweepDir) -> None:
        """Read the answers from the folder of their runs."""
        self._folder = folder
        self.path = folder.path
        self.sweep = Sweep(folder)

    def __repr__(self) -> str:
        return f"Found({str(self.path)!r})"

    def __str__(self) -> str:
        return "\n".join(answer.sentence() for answer in self.answers)

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        parts = [notebook.paragraph(answer.sentence()) for answer in self.answers]
        parts.append(notebook.rows_html(self.table.columns, self.table.rows()))
        parts.append(notebook.files({"report": self._folder.page}))
        return notebook.box(parts)

    def plot(self, figure: int = 1) -> go.Figure:
        """Return a figure of the runs; without `plots` in the question, a condition's figure.

        Args:
            figure: Number of the figure, from 1.

        Raises:
            InputError: There is no such figure, or no complete run has its values.

        Example:
            ```python
            found.plot().write_html("found.html")
            ```
        """
        return self.sweep.plot(figure)

    @cached_property
    def answers(self) -> list[Answer]:
        """The answer of each search (find.json).

        Raises:
            InputError: The file is missing or damaged.
        """
        return read_answers(self._folder.answers).answers

    @cached_property
    def table(self) -> pl.DataFrame:
        """One row per search: its values, the answer, the nearest other value, and figures."""
        import polars as pl  # noqa: PLC0415 (0.3 s)

        records = [answer_record(answer) for answer in self.answers]
        return pl.DataFrame(records, infer_schema_length=None, strict=False)


def open_find(path: str | Path) -> Found:
    """Open the folder of earlier searches.

    Args:
        path: The folder of `testbed find` or `find`.

    Returns:
        The answers.

    Raises:
        InputError: `path` is not the folder of a search.

    Example:
        ```python
        found = testbed.open_find("results/find-least-rate")
        ```
    """
    return Found(SweepDir.open(Path(path)))


def find(
    asked: str | Path | Mapping[str, Any] | Experiment,
    topology: str | Path | Mapping[str, Any] | Topology | None = None,
    workload: str | Path = "collectives",
    *,
    such_that: str | Sequence[str] = (),
    between: Sequence[Any] = (),
    precision: Any = None,
    for_each: Mapping[str, Sequence[Any]] | None = None,
    repeats: int | None = None,
    out: str | Path | None = None,
    jobs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    retries: int = 0,
    timeout_s: float | None = None,
    fail_fast: bool = False,
    retry_damaged: bool = False,
    ray: str | None = None,
    check: bool = True,
    progress: Callable[[PointProgress], object] | None = None,
    **options: Any,
) -> Found:
    """Find the least or largest value of a setting for which a condition on a run's figures holds.

    Each search is a bisection; its runs are points of a sweep's folder. Repeat the same call to
    resume.

    Args:
        asked: ``least KEY`` or ``largest KEY``, such as ``least wan.iowa-ohio.rate``. Or an
            experiment with ``find``: a path, or the contents of such a file as a dict. The five
            arguments after `workload` are for questions in words.
        topology: Topology of all points, as for `run`; None: the experiment's.
        workload: Name of a preset, or path of a file; for a question in words.
        such_that: Conditions on the figures of a run, such as ``compute_utilisation >= 90 %``;
            all must hold.
        between: Least and largest value to try.
        precision: Ratio of neighbouring values as a percentage, or their difference; None: 5 %.
        for_each: Values of further keys; a search for each combination.
        repeats: Runs of each value, with different seeds, whose medians decide; None: 1.
        out: The folder; None: ``results/find-<name>``.
        jobs: Number of guests that run in parallel; None: as many as CPUs and memory allow.
        settings: Values to change, as for `sweep`.
        retries: Number of further attempts after a point has failed.
        timeout_s: Limit on the wall time of a point, in seconds; None: no limit.
        fail_fast: Whether to start no further point after one has failed.
        retry_damaged: Whether to run complete points again whose files cannot be read.
        ray: Address of the Ray cluster that runs the points, auto, or local; None: this machine.
        check: Whether a search without an answer, because a run failed, raises an exception.
        progress: As for `sweep`.
        **options: Options of every run, such as ``isolation="process"``.

    Returns:
        The answers.

    Raises:
        InputError: The question or an argument is wrong; no point has run.
        MachineError: This machine lacks a requirement of the runs, or its disk is full.
        TestbedError: A run of a search failed, and `check` is true.
        KeyboardInterrupt: Ctrl-C; completed points are kept.

    Example:
        ```python
        found = testbed.find(
            "least wan.iowa-ohio.rate",
            "two-sites",
            such_that="time <= 100 ms",
            between=["100 Mbit/s", "100 Gbit/s"],
            settings={"workload.ops": ["all_reduce"], "workload.sizes": ["16 MiB"]},
            isolation="process",
        )
        print(found.answers[0].value, found)
        ```
    """
    reap()
    overrides = _sort_settings(settings or {}, ["topology", "workload", "run", "experiment"])
    if isinstance(asked, str) and is_question(asked):
        asked = question(
            asked,
            topology="",
            workload=str(workload),
            such_that=[such_that] if isinstance(such_that, str) else such_that,
            between=between,
            precision=precision,
            for_each=for_each,
            repeats=repeats,
        )
        if topology is None:
            raise InputError("a question needs a topology", place=Place("topology"))
    plan, topology_text = _as_experiment(asked, topology, overrides["experiment"])
    _check_jobs(jobs)
    run_overrides = _overrides_of_points(overrides, options)
    path = Path(out) if out is not None else find_run.default_folder(plan)
    plan, kernel = _ready(plan, topology_text, path)
    sweep_options = SweepOptions(
        jobs, Limits(timeout_s), Policy(retries, fail_fast), ray, retry_damaged
    )
    with sweep_run.points_forked(sweep_options):
        planner = find_run.find_planner(plan, kernel, run_overrides, ray)
        finder = find_run.new_finder(plan, planner)
        points = finder.begin()
        folder = SweepDir.create(path)
        started = FindRun(plan, points, folder, sweep_options, sys.argv, finder)
        started.carry_out(shown_by(progress), lambda rows: None)
    if check:
        find_run.check_answers(started.answers)
    found = Found(folder)
    if found.sweep.unfaithful:
        _warn_unfaithful(repr(found.sweep))
    return found


class DeployedNetwork:
    """A network that runs until it is destroyed; as a context manager, until the block ends.

    Notebooks display a deployment as its state, its hosts and its links.

    Attributes:
        name: Name of the deployment, also for ``testbed topo``.
    """

    def __init__(self, deployment: Deployment) -> None:
        """Control the network of `deployment`."""
        self._deployment = deployment
        self.name = deployment.name

    def __repr__(self) -> str:
        return f"DeployedNetwork({self.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    def _repr_html_(self) -> str:
        from testbed.report import notebook  # noqa: PLC0415 (only notebooks)

        status = self.inspect()
        hosts = [(host.name, host.datacenter, host.address) for host in status.hosts]
        links: list[tuple[object, ...]] = []
        for link in status.links:
            rate_gbps = link.rate_bps / 1e9
            links.append((link.source, link.target, rate_gbps, link.delay_ms, link.loss))
        parts = [
            notebook.paragraph(f"{status.name}: {status.state}, {status.clock} clock"),
            notebook.rows_html(("host", "datacenter", "address"), hosts),
            notebook.rows_html(("from", "to", "rate (Gbit/s)", "delay (ms)", "loss"), links),
        ]
        return notebook.box(parts)

    def exec(
        self,
        host: str,
        words: Sequence[str],
        *,
        check: bool = False,
        input: str | bytes | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, and wait for the command to end.

        Args:
            host: Name of a host, or of a datacenter (meaning its border router).
            words: The command and its arguments.
            check: Whether an exit status other than 0 raises an exception.
            input: The command's input; None: the input is empty.

        Returns:
            Exit status and output of the command, as from `subprocess.run`.

        Raises:
            InputError: The host does not exist, or `words` is empty.
            GuestLost: The deployment has ended.
            subprocess.CalledProcessError: The command failed, and `check` is true.
            KeyboardInterrupt: Ctrl-C; the command was ended.

        Example:
            ```python
            print(net.exec("iowa-h0", ["ping", "-c1", "ohio-h0"]).stdout)
            ```
        """
        self._check_exists()
        source = None
        if input is not None:
            source = BytesSource(input.encode() if isinstance(input, str) else input)
        request = exec_request(self._deployment, host, words, has_input=source is not None)
        out, err = io.BytesIO(), io.BytesIO()
        status = call(self._deployment, request, out, err, source, _warn_unfaithful)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        completed = subprocess.CompletedProcess(
            args=list(words),
            returncode=status,
            stdout=out.getvalue().decode(errors="replace"),
            stderr=err.getvalue().decode(errors="replace"),
        )
        if check:
            completed.check_returncode()
        return completed

    def set(self, settings: Mapping[str, Any]) -> None:
        """Change links of the network without losing packets in flight.

        Args:
            settings: New values by key, such as {"wan.iowa-ohio.delay": "20 ms"}.

        Raises:
            InputError: A setting is wrong, or cannot change in a running network.
            RunError: The guest's kernel rejected a value.
            GuestLost: The deployment has ended.

        Example:
            ```python
            net.set({"wan.iowa-ohio.delay": "20 ms", "wan.iowa-ohio.loss": "1 %"})
            ```
        """
        self._check_exists()
        change(self._deployment, _sort_settings(settings, ["topology"])["topology"])

    def inspect(self) -> DeploymentStatus:
        """Return the state, clock, uptime, hosts and links of the deployment.

        Returns:
            Status of the deployment, with the current settings of every link.

        Example:
            ```python
            print(net.inspect().links[0].delay_ms)
            ```
        """
        return status_of(self._deployment)

    def destroy(self) -> None:
        """End the deployment, and remove its files."""
        service.destroy(self._deployment)

    def _check_exists(self) -> None:
        """Check that the deployment has not been destroyed.

        Raises:
            GuestLost: The deployment has been destroyed.
        """
        if not self._deployment.path.is_dir():
            raise GuestLost(f"the deployment {self.name} has been destroyed")


def deploy(
    topology: str | Path | Mapping[str, Any] | Topology,
    *,
    name: str | None = None,
    clock: Clock = "real",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    guest_memory: str | None = None,
    progress: Progress | Callable[[RunProgress], object] | None = None,
) -> DeployedNetwork:
    """Build the network of a topology in a guest that runs until it is destroyed.

    The end of a ``with`` block destroys the network. Without a block the network outlives this
    process; ``testbed topo destroy`` ends it.

    Args:
        topology: As for `run`.
        name: Name of the deployment; None: the name of the topology.
        clock: Clock of the guest, real or virtual.
        settings: Values of the topology to change, such as {"wan.iowa-ohio.delay": "20 ms"}.
        seed: Random seed.
        guest_memory: Memory of the guest, such as 2 GiB; None: derived from the number of hosts.
        progress: As for `run`.

    Returns:
        The running network.

    Raises:
        InputError: An argument is wrong, or the name is taken.
        MachineError: This machine lacks a requirement of the guest.
        RunError: The network could not be built; nothing is left running.
        KeyboardInterrupt: Ctrl-C; nothing is left running.

    Example:
        ```python
        with testbed.deploy("two-sites") as net:
            net.set({"wan.iowa-ohio.delay": "20 ms"})
            print(net.exec("iowa-h0", ["ping", "-c1", "ohio-h0"]).stdout)
        ```
    """
    reap()
    overrides = _sort_settings(settings or {}, ["topology"])
    model = _as_topology(topology, overrides["topology"])
    options = RunOptions(clock=clock, seed=seed, guest_memory=guest_memory)
    deployment = service.deploy(
        name or model.name,
        model,
        clock=options.clock,
        seed=options.seed,
        memory_bytes=options.guest_memory,
        progress=as_progress(progress),
    )
    return DeployedNetwork(deployment)


def _sort_settings(
    settings: Mapping[str, Any], targets: Sequence[str]
) -> dict[str, list[Override]]:
    """Group settings by their target.

    Args:
        settings: Values by dotted key.
        targets: Allowed first parts of a key; a single target may be left out of the key.

    Raises:
        InputError: A key does not begin with a target.
    """
    overrides: dict[str, list[Override]] = {}
    for target in targets:
        overrides[target] = []

    for key, value in settings.items():
        place = Place(f"settings {key}")
        path = key.split(".")
        target = targets[0]
        if len(targets) > 1 or path[0] == target:
            target = path.pop(0)
        if target not in overrides or not path:
            prefixes = " or ".join(f"{name}." for name in targets)
            remedy = f"start the key with {prefixes}"
            raise InputError(f"{key!r} is not a valid setting", place=place, remedy=remedy)

        override = Override(key, tuple(path), value, place)
        overrides[target].append(override)
    return overrides


def _as_topology(
    topology: str | Path | Mapping[str, Any] | Topology, overrides: Sequence[Override]
) -> Topology:
    if isinstance(topology, Mapping):
        return Topology.from_yaml(yaml_reader.text_of(topology, "topology"), overrides)
    if not isinstance(topology, Topology):
        return Topology.load(topology, overrides)
    _refuse_settings(overrides)
    return topology


def _as_workload(workload: str | Path | Workload, overrides: Sequence[Override]) -> Workload:
    if not isinstance(workload, Workload):
        return load_workload(workload, overrides)
    _refuse_settings(overrides)
    return workload


def _as_experiment(
    experiment: str | Path | Mapping[str, Any] | Experiment,
    topology: str | Path | Mapping[str, Any] | Topology | None,
    overrides: Sequence[Override],
) -> tuple[Experiment, str | None]:
    """Return the experiment, and its topology as YAML if that is neither a preset nor a file."""
    if topology is None and isinstance(experiment, Mapping):
        topology = experiment.get("topology")
    text = None
    settings = list(overrides)
    if topology is not None:
        name, text = _name_and_text(topology)
        settings.insert(0, Override("topology", ("topology",), name, Place("topology")))
    if any(override.path == ("topology",) for override in overrides):
        text = None  # a setting replaces the topology

    if isinstance(experiment, Experiment):
        _refuse_settings(overrides)
        values = {override.key: override.value for override in settings}
        return experiment.model_copy(update=values), text
    if isinstance(experiment, Mapping):
        others = {key: value for key, value in experiment.items() if key != "topology"}
        return Experiment.from_mapping(others, settings), text
    return Experiment.load(experiment, settings), text


def _name_and_text(topology: object) -> tuple[Any, str | None]:
    """Return the value of an experiment's ``topology``, and the topology as YAML.

    The YAML is None for a preset or a file.
    """
    if isinstance(topology, Topology):
        return topology.name, topology.to_yaml()
    if isinstance(topology, Mapping):
        return str(topology.get("name", "topology")), yaml_reader.text_of(topology, "topology")
    if isinstance(topology, Path):
        return str(topology), None
    return topology, None


def _refuse_settings(overrides: Sequence[Override]) -> None:
    """Raise InputError if there are settings for a model made in Python."""
    for override in overrides:
        raise InputError(
            "settings apply to a preset or a file, not to a model",
            place=override.place,
            remedy="set the value where the model is created",
        )


def _refuse_workload_settings(overrides: Sequence[Override]) -> None:
    """Raise InputError if there are workload settings for a run of a script."""
    for override in overrides:
        raise InputError(
            "workload settings do not apply to scripts",
            place=override.place,
            remedy="pass the script's options as its arguments, and ranks_per_host to run()",
        )


def _refuse_script_settings(settings: Mapping[str, object]) -> None:
    """Raise InputError if there are settings that apply only to scripts and functions."""
    for key, value in settings.items():
        remedy = ""
        if key == "ranks_per_host":
            remedy = f'for a workload, use settings={{"workload.{key}": {value}}}'
        raise InputError("applies only to scripts", place=Place(key), remedy=remedy)


def _name_of(workload: str | Path | Workload | Callable[[], object]) -> str:
    if isinstance(workload, Workload):
        return workload.workload
    return str(getattr(workload, "__name__", workload))
