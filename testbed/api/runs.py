"""Run a workload, a script or a function, and measure changes that could make it faster."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from testbed.analysis.advice import Proposal
from testbed.analysis.measured_changes import ChangedRun, MeasuredChange, measure_changes
from testbed.api.arguments import (
    as_topology,
    as_workload,
    name_of,
    refuse_script_settings,
    refuse_workload_settings,
    sort_settings,
)
from testbed.api.completed_run import Run
from testbed.api.prepared_run import PreparedRun, default_folder, prepare, script_workload
from testbed.api.unfaithful import warn_unfaithful
from testbed.core.errors import InputError, TestbedError
from testbed.execution.cleanup import reap
from testbed.execution.progress import RunProgress, as_progress
from testbed.execution.requirements import require_packages
from testbed.execution.supervise import Progress
from testbed.runfolder.folder import RunDir
from testbed.runfolder.status import read_status
from testbed.spec.functions import script_of
from testbed.spec.options import RunOptions
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload

if TYPE_CHECKING:
    import polars as pl

FUNCTION_FOLDER = "function"  # subfolder of a run folder, with the script that calls a function


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
    overrides = sort_settings(settings or {}, ["topology", "workload"])
    run_options = RunOptions(**options)
    topology_model = as_topology(topology, overrides["topology"])
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
        refuse_script_settings(script_settings)
        name_or_model = "collectives" if workload is None else workload
        assert not callable(name_or_model)
        job = as_workload(name_or_model, overrides["workload"])
        prepared = prepare(topology_model, job, run_options)
        return prepared, prepared.new_folder(out)

    refuse_workload_settings(overrides["workload"])
    if script is None:
        assert callable(workload)
        if out is None:
            default = default_folder(topology_model.name, name_of(workload))
            folder = RunDir.create_unused(default)
        else:
            folder = RunDir.create(Path(out))
        prepared = _prepare_function(workload, topology_model, run_options, script_settings, folder)
        return prepared, folder

    if workload is not None:
        raise InputError(
            f"cannot run both a workload ({name_of(workload)}) and a script ({script[0]})",
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
        warn_unfaithful(repr(completed))
    return completed
