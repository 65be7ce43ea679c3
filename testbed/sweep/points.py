"""Plan the points of an experiment, so that every error is reported before the first one runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.measure.capture import check_filter
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec import yaml_reader
from testbed.spec.axis import values_of
from testbed.spec.base import input_error, suggest
from testbed.spec.experiment import Experiment, Point, value_text
from testbed.spec.options import RunOptions, experiment_options
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, load_workload
from testbed.spec.yaml_reader import Section
from testbed.sweep.index import IndexedPoint, SweepIndex

MANY_POINTS = 1000
PROCESS_MEMORY_BYTES = 300 * 2**20  # of a point outside its guest: Python and its tables
ID_DIGITS = 12
SEED_BITS = 48


@dataclass(frozen=True)
class PlannedPoint:
    """A point, and everything that it takes to run it.

    Attributes:
        point: the values of the axes.
        plan: the plan of its run.
        spec: topology and workload as written, for spec.yaml.
        run: the options of its run.
        identity: a hash of the plan and the versions; points that agree in it have equal results.
        command: the words of the command line that does the same run alone.
    """

    point: Point
    plan: Plan
    spec: str
    run: RunOptions
    identity: str
    command: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """The most memory that the point takes: that of its guest and that of its process."""
        return self.plan.guest_memory_bytes + PROCESS_MEMORY_BYTES

    @property
    def name(self) -> str:
        """The name of the point, for people."""
        return self.point.name

    @property
    def folder(self) -> str:
        """The name of the run folder: that of the point, with the beginning of the identity."""
        return f"{self.name}.{self.identity[:ID_DIGITS]}"


def check_size(experiment: Experiment, confirmed: bool) -> int:
    """Refuse a sweep of many points that nobody has confirmed.

    Args:
        experiment: the experiment.
        confirmed: the user has confirmed that many points are meant.

    Returns:
        The number of points before the conditions.

    Raises:
        InputError: there are more than `MANY_POINTS` before the conditions.
    """
    size = experiment.sweep.size
    if confirmed or size <= MANY_POINTS:
        return size
    factors = " x ".join(str(count) for count in _part_sizes(experiment))
    raise InputError(
        f"the experiment has {size} points ({factors}), before its conditions",
        place=experiment.place("sweep"),
        remedy=f"confirm more than {MANY_POINTS} points with --yes",
    )


def _part_sizes(experiment: Experiment) -> Iterator[int]:
    """Give the number of values of each part whose combinations are the points."""
    sweep = experiment.sweep
    for axis in sweep.grid.values():
        yield len(values_of(axis))

    for axes in sweep.zips:
        first_axis = next(iter(axes.values()))
        yield len(values_of(first_axis))
    if sweep.list_:
        yield len(sweep.list_)
    if sweep.repeats > 1:
        yield sweep.repeats


def plan_points(
    experiment: Experiment,
    versions: Mapping[str, str],
    overrides: Sequence[Override] = (),
    machine_memory_bytes: int | None = None,
) -> list[PlannedPoint]:
    """Plan every point of an experiment.

    Args:
        experiment: the experiment.
        versions: of everything that results depend on, by name; part of the identity.
        overrides: ``--set`` of topology, workload and run; they replace the experiment's settings.
        machine_memory_bytes: what a point may need; None: what this machine has.

    Raises:
        InputError: a point cannot be run, or no point meets the conditions.
    """
    _refuse_swept_keys(experiment, overrides)
    planner = _Planner(experiment, versions, overrides, machine_memory_bytes)
    points = [planner.plan(point) for point in experiment.points()]
    if not points:
        place = experiment.place("where")
        remedy = "loosen the condition" if experiment.sweep.conditions else ""
        raise InputError("no points remain after `where`", place=place, remedy=remedy)
    return points


@dataclass(frozen=True)
class _Names:
    """Names of presets, or paths of files, of a topology and a workload."""

    topology: str
    workload: str


class _Planner:
    """Plans the points of one experiment; topologies and workloads are made once."""

    def __init__(
        self,
        experiment: Experiment,
        versions: Mapping[str, str],
        overrides: Sequence[Override],
        machine_memory_bytes: int | None,
    ) -> None:
        self._experiment = experiment
        self._versions = dict(versions)
        self._machine_memory_bytes = machine_memory_bytes
        self._common_overrides = _overrides(experiment, experiment.settings)
        self._common_overrides += overrides
        self._checked_filters: set[str] = set()
        self._topologies: dict[str, Topology] = {}
        self._workloads: dict[str, Workload] = {}

    def plan(self, point: Point) -> PlannedPoint:
        """Plan a point.

        Raises:
            InputError: the point cannot be run; names the point.
        """
        try:
            return self._plan(point)
        except InputError as error:
            place = error.place
            if place.file is None:
                place = Place(None, f"point {point.name}")
            remedy = f"in the point {point.name}"
            if error.remedy:
                remedy = f"{error.remedy}; {remedy}"
            raise InputError(error.what, place=place, remedy=remedy) from error

    def _plan(self, point: Point) -> PlannedPoint:
        names = self._names(point)
        overrides = self._overrides(point)
        run_overrides = _overrides_of("run", overrides)
        run = _run_options(run_overrides, point.repeat)
        topology = self._topology(names.topology, overrides)
        workload = self._workload(names.workload, overrides)
        if self._takes_repeat_seed(point, workload, overrides):
            seed = Override("workload.seed", ("seed",), run.seed)
            workload = self._workload(names.workload, [*overrides, seed])

        self._check_filter(run.capture_filter)
        plan = resolve(topology, workload, run, machine_memory_bytes=self._machine_memory_bytes)
        topology_text = topology.to_yaml()
        workload_text = workload.to_yaml()
        return PlannedPoint(
            point=point,
            plan=plan,
            spec=f"# topology\n{topology_text}---\n# workload\n{workload_text}",
            run=run,
            identity=_identity(plan, self._versions),
            command=_command(names, overrides, run),
        )

    def _names(self, point: Point) -> _Names:
        values = point.values
        topology = values.get("topology", self._experiment.topology)
        workload = values.get("workload", self._experiment.workload)
        return _Names(str(topology), str(workload))

    def _overrides(self, point: Point) -> list[Override]:
        """Give the overrides of a point: those of all points, and then its own."""
        values = dict(point.values)
        values.pop("topology", None)
        values.pop("workload", None)
        return self._common_overrides + _overrides(self._experiment, values)

    def _check_filter(self, expression: str) -> None:
        """Let tcpdump check a filter of captures; each is checked once."""
        if expression and expression not in self._checked_filters:
            check_filter(expression)
            self._checked_filters.add(expression)

    def _takes_repeat_seed(
        self, point: Point, workload: Workload, overrides: Sequence[Override]
    ) -> bool:
        """Whether the workload's own seed becomes that of the repeat, because nobody wrote it."""
        if point.repeat == 0 or "seed" not in type(workload).model_fields:
            return False
        return not any(override.key == "workload.seed" for override in overrides)

    def _topology(self, name: str, overrides: Sequence[Override]) -> Topology:
        overrides = _overrides_of("topology", overrides)
        key = _load_key(name, overrides)
        topology = self._topologies.get(key)
        if topology is None:
            with self._placed_at("topology"):
                file = self._experiment.file_of(name)
                topology = Topology.load(file, overrides)
            self._topologies[key] = topology
        return topology

    def _workload(self, name: str, overrides: Sequence[Override]) -> Workload:
        overrides = _overrides_of("workload", overrides)
        key = _load_key(name, overrides)
        workload = self._workloads.get(key)
        if workload is None:
            with self._placed_at("workload"):
                file = self._experiment.file_of(name)
                workload = load_workload(file, overrides)
            self._workloads[key] = workload
        return workload

    @contextmanager
    def _placed_at(self, key: str) -> Iterator[None]:
        """Give errors without a file the place of `key` in the experiment."""
        try:
            yield
        except InputError as error:
            if error.place.file is not None:
                raise
            place = self._experiment.place(key)
            raise InputError(error.what, place=place, remedy=error.remedy) from error


def _refuse_swept_keys(experiment: Experiment, overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.key in experiment.sweep.keys:
            remedy = (
                f"change the values with --set 'experiment.sweep.grid={{{override.key}: [...]}}'"
            )
            raise InputError("already varied by the sweep", place=override.place, remedy=remedy)


def _run_options(overrides: Sequence[Override], repeat: int) -> RunOptions:
    """Make the options of a run from the `run.` keys; repeats have seeds of their own.

    Raises:
        InputError: a key is unknown, or a value is wrong.
    """
    source = _run_section(overrides)
    try:
        run = RunOptions.model_validate(source)
    except ValidationError as error:
        raise input_error(
            error, RunOptions, lambda loc: yaml_reader.place_of(source, loc)
        ) from error
    seed = repeat_seed(run.seed, repeat)
    return run.model_copy(update={"seed": seed})


def _run_section(overrides: Sequence[Override]) -> Section:
    known = [option.name for option in experiment_options()]
    source = Section()
    for override in overrides:
        name = override.path[0]
        if name not in known:
            remedy = suggest(name, known, "known keys")
            raise InputError(f"unknown key {name!r}", place=override.place, remedy=remedy)
        source.put(name, override.value, override.place)

    if any(len(override.path) > 1 for override in overrides):
        apply_overrides(source, overrides)

    return source


def repeat_seed(seed: int, repeat: int) -> int:
    """Give the seed of a repeat, the same for every point.

    Args:
        seed: of the first repeat.
        repeat: the number of the repeat, from 0.
    """
    if repeat == 0:
        return seed
    digest = hashlib.sha256(f"{seed} {repeat}".encode()).digest()
    return int.from_bytes(digest[: SEED_BITS // 8])


def _identity(plan: Plan, versions: dict[str, str]) -> str:
    versioned_plan = plan.model_copy(update={"versions": versions})
    text = versioned_plan.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()


def _overrides(experiment: Experiment, values: Mapping[str, Any]) -> list[Override]:
    """Make overrides of values by key, with the places at which the experiment has the keys."""
    overrides: list[Override] = []
    for key, value in values.items():
        _target, *path = key.split(".")
        place = experiment.place(key)
        overrides.append(Override(key, tuple(path), value, place))
    return overrides


def _overrides_of(target: str, overrides: Sequence[Override]) -> list[Override]:
    """Give the overrides whose key begins with a target."""
    prefix = f"{target}."
    return [override for override in overrides if override.key.startswith(prefix)]


def _load_key(name: str, overrides: Sequence[Override]) -> str:
    """Make a text that is equal for the same file with the same overrides."""
    values = [(override.key, override.value) for override in overrides]
    return repr((name, values))


def _command(names: _Names, overrides: Sequence[Override], run: RunOptions) -> tuple[str, ...]:
    """Give the words of the `testbed run` that does the same as a point."""
    words = ["testbed", "run", names.topology, names.workload]
    for override in overrides:
        if not override.key.startswith("run."):
            setting = f"{override.key}={value_text(override.value)}"
            words += ["--set", setting]
    words += run.arguments()
    return tuple(words)


def unique(points: Iterable[PlannedPoint]) -> list[PlannedPoint]:
    """Give the points without those whose identity an earlier point has."""
    first_points: dict[str, PlannedPoint] = {}
    for point in points:
        first_points.setdefault(point.identity, point)
    return list(first_points.values())


def index_of(
    experiment: Experiment, points: Sequence[PlannedPoint], command: Sequence[str]
) -> SweepIndex:
    """Make the index of a sweep.

    Args:
        experiment: the experiment.
        points: all of its points, done or not.
        command: the command line of the sweep.
    """
    axes = list(points[0].point.shown) if points else []
    return SweepIndex(
        name=experiment.name,
        description=experiment.description,
        command=list(command),
        axes=axes,
        target_loss=experiment.target_loss,
        plots=experiment.plots,
        points=[_indexed(point) for point in points],
    )


def _indexed(point: PlannedPoint) -> IndexedPoint:
    values: dict[str, Any] = {}
    for name, value in point.point.shown.items():
        values[name] = yaml_reader.plain(value)

    return IndexedPoint(
        name=point.name,
        identity=point.identity,
        values=values,
        repeat=point.point.repeat,
        seed=point.run.seed,
    )
