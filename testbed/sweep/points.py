"""From an experiment to the plans of its points; whatever is wrong with any of them is said before
the first starts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
from testbed.spec.experiment import TARGETS, Experiment, Point, value_text
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
    """A point with all that it takes to run it.

    `identity` is a hash of the plan and the versions: points of the same identity have the same
    result.
    """

    point: Point
    plan: Plan
    spec: str  # what was written, for spec.yaml
    run: RunOptions
    identity: str
    command: tuple[str, ...]  # that does the same run alone

    @property
    def memory_bytes(self) -> int:
        """The most memory that the point takes: its guest's, which is a bound, and its process'."""
        return self.plan.guest_memory_bytes + PROCESS_MEMORY_BYTES

    @property
    def name(self) -> str:
        """For people."""
        return self.point.name

    @property
    def folder(self) -> str:
        """The name of its run folder: that of the point, with the beginning of the identity."""
        return f"{self.name}.{self.identity[:ID_DIGITS]}"


def check_size(experiment: Experiment, confirmed: bool) -> int:
    """The number of points before the conditions.

    Raises:
        InputError: there are many, and nobody has confirmed that they are meant.
    """
    size = experiment.sweep.size
    if size > MANY_POINTS and not confirmed:
        parts = " x ".join(f"{len(part)}" for part in _parts(experiment))
        raise InputError(
            f"the experiment has {size} points ({parts}), before its conditions",
            place=experiment.place("sweep"),
            remedy=f"say --yes if more than {MANY_POINTS} are meant",
        )
    return size


def _parts(experiment: Experiment) -> Iterable[Sequence[object]]:
    sweep = experiment.sweep
    yield from (values_of(axis) for axis in sweep.grid.values())
    yield from (values_of(next(iter(axes.values()))) for axes in sweep.zips)
    if sweep.list_:
        yield sweep.list_
    if sweep.repeats > 1:
        yield range(sweep.repeats)


def plan_points(
    experiment: Experiment,
    versions: Mapping[str, str],
    overrides: Sequence[Override] = (),
    machine_memory_bytes: int | None = None,
) -> list[PlannedPoint]:
    """Every point of `experiment` with its plan.

    Args:
        versions: of what the results depend on, for the identity.
        overrides: ``--set`` of topology, workload and run, which take the place of the experiment's
            settings.
        machine_memory_bytes: what a point may need; None: what this machine has.

    Raises:
        InputError: a point cannot be run, or no point meets the conditions.
    """
    planner = _Planner(experiment, dict(versions), overrides, machine_memory_bytes)
    tasks = [planner.task(point) for point in experiment.points()]
    if not tasks:
        remedy = "loosen `where`" if experiment.sweep.conditions else ""
        raise InputError("no point is left", place=experiment.place("where"), remedy=remedy)
    return tasks


class _Planner:
    def __init__(
        self,
        experiment: Experiment,
        versions: dict[str, str],
        overrides: Sequence[Override],
        machine_memory_bytes: int | None,
    ) -> None:
        self._experiment, self._versions = experiment, versions
        self._memory = machine_memory_bytes
        self._fixed = [*_overrides(experiment, experiment.settings), *overrides]
        self._checked_filters: set[str] = set()
        self._loaded: dict[tuple[str, str, str], Any] = {}
        for override in overrides:
            if override.key in experiment.sweep.keys:
                remedy = (
                    f"change its values: --set 'experiment.sweep.grid={{{override.key}: [...]}}'"
                )
                raise InputError("this key is swept", place=override.place, remedy=remedy)

    def task(self, point: Point) -> PlannedPoint:
        try:
            return self._task(point)
        except InputError as error:
            where = error.place if error.place.file else Place(None, f"point {point.name}")
            remedy = "; ".join(
                text for text in (error.remedy, f"in the point {point.name}") if text
            )
            raise InputError(error.what, place=where, remedy=remedy) from error

    def _task(self, point: Point) -> PlannedPoint:
        names = {
            target: str(point.values.get(target, getattr(self._experiment, target)))
            for target in TARGETS[:2]
        }
        own = _overrides(
            self._experiment, {k: v for k, v in point.values.items() if k not in TARGETS}
        )
        changes = [*self._fixed, *own]
        run = self._run(
            [change for change in changes if change.key.startswith("run.")], point.repeat
        )
        topology = self._load("topology", names["topology"], changes)
        workload = self._load(
            "workload", names["workload"], [*changes, *self._seed(point, changes, names, run)]
        )
        self._check_filter(run.capture_filter)
        plan = resolve(topology, workload, run, machine_memory_bytes=self._memory)
        spec = f"# topology\n{topology.to_yaml()}---\n# workload\n{workload.to_yaml()}"
        identity = plan.model_copy(update={"versions": self._versions}).model_dump_json()
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return PlannedPoint(point, plan, spec, run, digest, _command(names, changes, run))

    def _run(self, changes: Sequence[Override], repeat: int) -> RunOptions:
        known = [option.name for option in experiment_options()]
        source = Section()
        for change in changes:
            name = change.path[0]
            if name not in known:
                remedy = suggest(name, known, "known keys")
                raise InputError(f"unknown key {name!r}", place=change.place, remedy=remedy)
            source.put(change.path[0], change.value, change.place)
        if any(len(change.path) > 1 for change in changes):
            apply_overrides(source, changes)
        try:
            run = RunOptions.model_validate(source)
        except ValidationError as error:
            raise input_error(
                error, RunOptions, lambda loc: yaml_reader.place_of(source, loc)
            ) from error
        return run.model_copy(update={"seed": repeat_seed(run.seed, repeat)})

    def _check_filter(self, expression: str) -> None:
        """Let tcpdump check a filter of captures; each is checked once."""
        if expression and expression not in self._checked_filters:
            check_filter(expression)
            self._checked_filters.add(expression)

    def _seed(
        self, point: Point, changes: Sequence[Override], names: Mapping[str, str], run: RunOptions
    ) -> list[Override]:
        """In repeats, a workload's own seed is the run's, unless it is written."""
        if self._experiment.sweep.repeats == 1 or any(
            change.key == "workload.seed" for change in changes
        ):
            return []
        model = type(self._load("workload", names["workload"], changes))
        written = "seed" in model.model_fields and point.repeat > 0
        return [Override("workload.seed", ("seed",), run.seed)] if written else []

    def _load(self, target: str, name: str, changes: Sequence[Override]) -> Any:
        """A topology or workload with those of the changes that are for it; each is made once."""
        mine = [change for change in changes if change.key.startswith(f"{target}.")]
        key = (target, name, repr([(change.key, change.value) for change in mine]))
        if key not in self._loaded:
            load = Topology.load if target == "topology" else load_workload
            try:
                self._loaded[key] = load(self._experiment.file_of(name), mine)
            except InputError as error:
                if error.place.file is None:
                    place = self._experiment.place(target)
                    raise InputError(error.what, place=place, remedy=error.remedy) from error
                raise
        found: Topology | Workload = self._loaded[key]
        return found


def repeat_seed(seed: int, repeat: int) -> int:
    """The seed of a repeat: the given one of the first, others drawn from it; the same for every
    point.
    """
    if repeat == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {repeat}".encode()).digest()[: SEED_BITS // 8])


def _overrides(experiment: Experiment, values: Mapping[str, Any]) -> list[Override]:
    return [
        Override(key, tuple(key.split(".")[1:]), value, experiment.place(key))
        for key, value in values.items()
    ]


def _command(
    names: Mapping[str, str], changes: Sequence[Override], run: RunOptions
) -> tuple[str, ...]:
    """The `testbed run` that does the same."""
    words = ["testbed", "run", names["topology"], names["workload"]]
    for change in changes:
        if not change.key.startswith("run."):
            words += ["--set", f"{change.key}={value_text(change.value)}"]
    return (*words, *run.arguments())


def unique(tasks: Iterable[PlannedPoint]) -> list[PlannedPoint]:
    """The tasks without those of an identity that came before."""
    return list({task.identity: task for task in reversed(list(tasks))}.values())[::-1]


def index_of(
    experiment: Experiment, points: Sequence[PlannedPoint], command: Sequence[str]
) -> SweepIndex:
    """Make the index of a sweep.

    Args:
        experiment: the experiment.
        points: all of its points, done or not.
        command: the command line of the sweep.
    """
    return SweepIndex(
        name=experiment.name,
        description=experiment.description,
        command=list(command),
        axes=list(points[0].point.shown) if points else [],
        target_loss=experiment.target_loss,
        plots=experiment.plots,
        points=[_indexed(point) for point in points],
    )


def _indexed(point: PlannedPoint) -> IndexedPoint:
    values = {name: yaml_reader.plain(value) for name, value in point.point.shown.items()}
    return IndexedPoint(
        name=point.name,
        identity=point.identity,
        values=values,
        repeat=point.point.repeat,
        seed=point.run.seed,
    )
