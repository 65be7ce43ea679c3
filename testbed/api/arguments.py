"""Turn the arguments of the API into models, and refuse what does not fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.execution.requirements import require_packages
from testbed.guest.kernel import Kernel, ensure_kernel
from testbed.spec import yaml_reader
from testbed.spec.experiment import Experiment, GivenTopology
from testbed.spec.overrides import Override
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, load_workload
from testbed.sweep.folder import SweepDir


def sort_settings(settings: Mapping[str, Any], targets: Sequence[str]) -> dict[str, list[Override]]:
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


def as_topology(
    topology: str | Path | Mapping[str, Any] | Topology, overrides: Sequence[Override]
) -> Topology:
    """Return a topology from whatever `run` accepts, with changed values.

    Raises:
        InputError: It is not a topology, or the changes do not apply to it.
    """
    if isinstance(topology, Mapping):
        return Topology.from_yaml(yaml_reader.text_of(topology, "topology"), overrides)
    if not isinstance(topology, Topology):
        return Topology.load(topology, overrides)
    _refuse_settings(overrides)
    return topology


def as_workload(workload: str | Path | Workload, overrides: Sequence[Override]) -> Workload:
    """Return a workload from its name, its file or itself, with changed values.

    Raises:
        InputError: It is not a workload, or the changes do not apply to it.
    """
    if not isinstance(workload, Workload):
        return load_workload(workload, overrides)
    _refuse_settings(overrides)
    return workload


def as_experiment(
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


def check_jobs(jobs: int | None) -> None:
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


@dataclass(frozen=True)
class PreparedPoints:
    """An experiment that this machine can start.

    Attributes:
        experiment: The experiment; a topology that was given as a text is kept in the folder.
        kernel: The guest kernel.
        overrides: The settings of all points.
        path: The folder of the sweep.
    """

    experiment: Experiment
    kernel: Kernel
    overrides: list[Override]
    path: Path


def prepare_points(
    experiment: Experiment,
    topology_text: str | None,
    overrides: Mapping[str, list[Override]],
    options: Mapping[str, Any],
    path: Path,
) -> PreparedPoints:
    """Prepare to run the points of an experiment.

    Args:
        experiment: The experiment.
        topology_text: Its topology as YAML; None: a preset or a file.
        overrides: Settings by target.
        options: Options of every run.
        path: The folder of the sweep.

    Raises:
        MachineError: This machine lacks what runs require.
    """
    if topology_text is not None:
        given = GivenTopology(topology_text, SweepDir(path).topology)
        experiment = experiment.with_topology(given)

    settings = _overrides_of_points(overrides, options)
    require_packages()
    return PreparedPoints(experiment, ensure_kernel(), settings, path)


def _refuse_settings(overrides: Sequence[Override]) -> None:
    """Raise InputError if there are settings for a model made in Python."""
    for override in overrides:
        raise InputError(
            "settings apply to a preset or a file, not to a model",
            place=override.place,
            remedy="set the value where the model is created",
        )


def refuse_workload_settings(overrides: Sequence[Override]) -> None:
    """Raise InputError if there are workload settings for a run of a script."""
    for override in overrides:
        raise InputError(
            "workload settings do not apply to scripts",
            place=override.place,
            remedy="pass the script's options as its arguments, and ranks_per_host to run()",
        )


def refuse_script_settings(settings: Mapping[str, object]) -> None:
    """Raise InputError if there are settings that apply only to scripts and functions."""
    for key, value in settings.items():
        remedy = ""
        if key == "ranks_per_host":
            remedy = f'for a workload, use settings={{"workload.{key}": {value}}}'
        raise InputError("applies only to scripts", place=Place(key), remedy=remedy)


def name_of(workload: str | Path | Workload | Callable[[], object]) -> str:
    """Return the name of a workload or a function, for folders and errors."""
    if isinstance(workload, Workload):
        return workload.workload
    return str(getattr(workload, "__name__", workload))
