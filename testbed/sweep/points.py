"""Plan the points of an experiment, so that every error is reported before the first run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from testbed.core.errors import InputError, Place
from testbed.core.suggestions import suggest
from testbed.measure.capture import check_filter
from testbed.plan.model import Plan
from testbed.plan.resolve import resolve
from testbed.spec import yaml_reader
from testbed.spec.axis import values_of
from testbed.spec.base import input_error
from testbed.spec.experiment import Experiment, Point, value_text
from testbed.spec.options import RunOptions, experiment_options
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.topology import Topology
from testbed.spec.workload import Workload, load_workload
from testbed.spec.yaml_reader import Section
from testbed.sweep.index import IndexedPoint, SweepIndex, folder_of

MANY_POINTS = 1000
PROCESS_MEMORY_BYTES = 300 * 2**20  # of a point outside its guest: Python and tables
SEED_BITS = 48


@dataclass(frozen=True)
class PlannedPoint:
    """A point with everything that is needed to run it.

    Attributes:
        point: Values of the axes.
        plan: Plan of the run.
        spec: Topology and workload as written, for spec.yaml.
        run: Options of the run.
        identity: Hash of the plan and the versions; points with equal identity have equal results.
        command: Words of the command line that runs the point alone.
    """

    point: Point
    plan: Plan
    spec: str
    run: RunOptions
    identity: str
    command: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """Maximum memory of the point: guest plus process."""
        return self.plan.memory_of_guests + PROCESS_MEMORY_BYTES

    @property
    def name(self) -> str:
        """Name of the point, for people."""
        return self.point.name

    @property
    def folder(self) -> str:
        """Name of the run folder: name of the point, then the first digits of the identity."""
        return folder_of(self.name, self.identity)


def check_size(experiment: Experiment, confirmed: bool) -> int:
    """Check that a large sweep is confirmed, and return its number of points.

    Args:
        experiment: The experiment to check.
        confirmed: Whether the user has confirmed a large sweep.

    Returns:
        The number of points before the conditions.

    Raises:
        InputError: More than `MANY_POINTS` points before the conditions, without confirmation.
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
    """Yield the number of values of each part; points are combinations of the parts."""
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
        experiment: The experiment to plan.
        versions: Versions of everything that affects results, by name; part of the identity.
        overrides: ``--set`` of topology, workload and run; these replace the experiment's settings.
        machine_memory_bytes: Memory limit of a point; None: the memory of this machine.

    Raises:
        InputError: A point cannot be run, or no point meets the conditions.
    """
    if experiment.find is not None:
        remedy = "run it with `testbed find`"
        what = "this experiment is a search, not a sweep"
        raise InputError(what, place=experiment.place("find"), remedy=remedy)
    planner = PointPlanner(experiment, versions, overrides, machine_memory_bytes)
    points = [planner.plan(point) for point in experiment.points()]
    if not points:
        place = experiment.place("where")
        remedy = "loosen the condition" if experiment.sweep.conditions else ""
        raise InputError("no points remain after `where`", place=place, remedy=remedy)
    return points


@dataclass(frozen=True)
class _Names:
    """Preset names or file paths of a topology and a workload."""

    topology: str
    workload: str


class PointPlanner:
    """Plans the points of one experiment; each topology and workload is loaded once."""

    def __init__(
        self,
        experiment: Experiment,
        versions: Mapping[str, str],
        overrides: Sequence[Override],
        machine_memory_bytes: int | None,
    ) -> None:
        """Plan points of `experiment`, with arguments as for `plan_points`.

        Raises:
            InputError: An override sets a key that differs between points.
        """
        _refuse_swept_keys(experiment, overrides)
        self._experiment = experiment
        self._versions = dict(versions)
        self._machine_memory_bytes = machine_memory_bytes
        self._common_overrides = _overrides(experiment, experiment.settings)
        self._common_overrides += overrides
        self._checked_filters: set[str] = set()
        self._topologies: dict[str, Topology] = {}
        self._workloads: dict[str, Workload] = {}

    def plan(self, point: Point) -> PlannedPoint:
        """Return the planned point.

        Raises:
            InputError: The point cannot be run; the message names the point.
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
        seeds = _repeat_seeds(point, workload, overrides, run.seed)
        if seeds:
            workload = self._workload(names.workload, [*overrides, *seeds])

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
        given = self._experiment.given_topology
        topology = given.file if given else values.get("topology", self._experiment.topology)
        workload = values.get("workload", self._experiment.workload)
        return _Names(str(topology), str(workload))

    def _overrides(self, point: Point) -> list[Override]:
        """Return the overrides of a point: those for all points, then those of the point."""
        values = dict(point.values)
        values.pop("topology", None)
        values.pop("workload", None)
        return self._common_overrides + _overrides(self._experiment, values)

    def _check_filter(self, expression: str) -> None:
        """Check a capture filter with tcpdump, once per filter."""
        if expression and expression not in self._checked_filters:
            check_filter(expression)
            self._checked_filters.add(expression)

    def _topology(self, name: str, overrides: Sequence[Override]) -> Topology:
        overrides = _overrides_of("topology", overrides)
        key = _load_key(name, overrides)
        topology = self._topologies.get(key)
        if topology is None:
            with self._placed_at("topology"):
                topology = self._experiment.load_topology(name, overrides)
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
        """Add the place of `key` in the experiment to errors that have no file."""
        try:
            yield
        except InputError as error:
            if error.place.file is not None:
                raise
            place = self._experiment.place(key)
            raise InputError(error.what, place=place, remedy=error.remedy) from error


def _repeat_seeds(
    point: Point, workload: Workload, overrides: Sequence[Override], seed: int
) -> list[Override]:
    """Return the settings that give a workload, or each of several jobs, the seed of a repeat.

    A seed with a setting (``workload.seed``, ``workload.jobs.NAME.seed``) stays.
    """
    if point.repeat == 0:
        return []

    paths: list[tuple[str, ...]] = []
    if "seed" in type(workload).model_fields:
        paths.append(("seed",))
    for job in workload.placed:
        if "seed" in type(job.workload).model_fields:
            paths.append(("jobs", job.name, "seed"))

    given = {override.key for override in overrides}
    seeds: list[Override] = []
    for path in paths:
        key = ".".join(["workload", *path])
        if key not in given:
            seeds.append(Override(key, path, seed))
    return seeds


def _refuse_swept_keys(experiment: Experiment, overrides: Sequence[Override]) -> None:
    for override in overrides:
        if override.key in experiment.varied.keys:
            grid = "sweep.grid" if experiment.find is None else "find.for"
            remedy = f"change the values with --set 'experiment.{grid}={{{override.key}: [...]}}'"
            raise InputError("already varied by the sweep", place=override.place, remedy=remedy)


def _run_options(overrides: Sequence[Override], repeat: int) -> RunOptions:
    """Return the options of a run from the `run.` keys; each repeat has a different seed.

    Raises:
        InputError: A key is unknown, or a value is wrong.
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
    """Return the seed of a repeat, which is the same for every point.

    Args:
        seed: Seed of the first repeat.
        repeat: Number of the repeat, from 0.
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
    """Return overrides from values by key, with the key's place in the experiment."""
    overrides: list[Override] = []
    for key, value in values.items():
        _target, *path = key.split(".")
        place = experiment.place(key)
        overrides.append(Override(key, tuple(path), value, place))
    return overrides


def _overrides_of(target: str, overrides: Sequence[Override]) -> list[Override]:
    """Return the overrides whose key begins with `target`."""
    prefix = f"{target}."
    return [override for override in overrides if override.key.startswith(prefix)]


def _load_key(name: str, overrides: Sequence[Override]) -> str:
    """Return a text that is equal for the same file with the same overrides."""
    values = [(override.key, override.value) for override in overrides]
    return repr((name, values))


def _command(names: _Names, overrides: Sequence[Override], run: RunOptions) -> tuple[str, ...]:
    """Return the words of the `testbed run` command that is equivalent to a point."""
    words = ["testbed", "run", names.topology, names.workload]
    for override in overrides:
        if not override.key.startswith("run."):
            setting = f"{override.key}={value_text(override.value)}"
            words += ["--set", setting]
    words += run.arguments()
    return tuple(words)


def unique(points: Iterable[PlannedPoint]) -> list[PlannedPoint]:
    """Return the points whose identity no earlier point has."""
    first_points: dict[str, PlannedPoint] = {}
    for point in points:
        first_points.setdefault(point.identity, point)
    return list(first_points.values())


def index_of(
    experiment: Experiment, points: Sequence[PlannedPoint], command: Sequence[str]
) -> SweepIndex:
    """Return the index of a sweep.

    Args:
        experiment: The experiment of the sweep.
        points: All points of the experiment, done or not.
        command: Command line of the sweep.
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
