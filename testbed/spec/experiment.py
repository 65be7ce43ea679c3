"""The experiment file: a topology, a workload, and the values of their settings that a sweep goes
through.

    name: allreduce
    topology: two-sites                     # a preset, or a file beside this one
    workload: collectives
    settings: {workload.ops: [all_reduce], run.isolation: process}
    sweep:
      grid:                                 # every value of each key with every value of the others
        topology.wan.iowa-ohio.delay: {from: 1 ms, to: 100 ms, points: 5, scale: log}
        workload.algorithm: [gloo, hierarchical]
      zip:                                  # the n-th values of these keys together
        topology.wan.iowa-ohio.rate: [1 Gbit/s, 10 Gbit/s]
        run.guest_memory: [3 GiB, 4 GiB]
      list:                                 # points written out
        - {workload.sizes: [1 MiB], workload.iterations: 5}
      where: rate >= 1 Gbit/s               # one condition or a list; all must hold
      repeats: 3
      name: "{algorithm}-{delay}"

Grid, zips and list are combined: every combination of the grid with every row of each zip and every
entry of the list. A key is a dotted path into the topology, the workload or the run, as after
``--set``. The last part of a key is its short name, with the part before it where two keys share
it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationError, model_validator

from testbed.core.errors import InputError, Place
from testbed.core.units import Size, Time, UnitError
from testbed.spec import yaml_reader
from testbed.spec.axis import Axes, values_of
from testbed.spec.base import Count, Problem, Strict, input_error, refuse, suggest
from testbed.spec.condition import Condition, quantity_of
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.presets import EXPERIMENTS
from testbed.spec.topology import Name
from testbed.spec.yaml_reader import Section

TARGETS = ("topology", "workload", "run")


class RunSettings(Strict):
    """How a point is run; the names and meanings are those of the options of ``testbed run``."""

    clock: Literal["virtual", "real"] = "virtual"
    isolation: Literal["container", "process"] = "container"
    capture: Literal["none", "wan"] = "none"
    seed: Annotated[int, Field(strict=True, ge=0)] = 0
    memory: Size | None = None
    cpus: Annotated[float, Field(ge=0.01)] = 1.0
    guest_memory: Size | None = None
    stall_limit: Time = 300 * 10**9
    environment: dict[str, str] = Field({})


class Sweep(Strict):
    """Which values are gone through, and how the points are named."""

    grid: Axes = Field({}, description="key: values; all combinations")
    zip: Annotated[
        Annotated[Axes, Tag("(one)")] | Annotated[list[Axes], Tag("(several)")],
        Discriminator(lambda value: "(several)" if isinstance(value, list) else "(one)"),
    ] = Field({}, description="key: values; the first ones together, then the second ones")
    list_: list[dict[str, Any]] = Field(
        [], alias="list", description="points, each with the values of its keys"
    )
    where: str | list[str] = Field([], description="conditions that a point must meet")
    repeats: Count = Field(1, description="of each point, with seeds of their own")
    name: str | None = Field(None, description="of a point, as in {algorithm}-{delay}")

    @property
    def zips(self) -> list[Axes]:
        """Each zip."""
        return self.zip if isinstance(self.zip, list) else [self.zip] if self.zip else []

    @property
    def conditions(self) -> list[str]:
        """Each condition."""
        return [self.where] if isinstance(self.where, str) else self.where

    @property
    def keys(self) -> list[str]:
        """Every key whose value differs between points, in the order written."""
        found = [
            *self.grid,
            *(key for axes in self.zips for key in axes),
            *(key for one in self.list_ for key in one),
        ]
        return list(dict.fromkeys(found))

    @property
    def size(self) -> int:
        """Points before the conditions."""
        lengths = [len(values_of(axis)) for axis in self.grid.values()]
        lengths += [len(values_of(next(iter(axes.values())))) for axes in self.zips]
        return math.prod(lengths) * max(1, len(self.list_)) * self.repeats

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*self._key_problems(), *self._zip_problems()]
        if not self.keys:
            problems.append(
                Problem(
                    ("grid",),
                    "there is nothing to go through",
                    "write grid, zip or list with a key",
                )
            )
        for index, one in enumerate(self.list_):
            if not one:
                problems.append(Problem(("list", index), "this point has no value"))
        refuse(problems, type(self).__name__)
        names = [*short_names(self.keys).values(), *self.keys, "repeat"]
        for index, text in enumerate(self.conditions):
            loc = ("where",) if isinstance(self.where, str) else ("where", index)
            try:
                Condition.parse(text, names)
            except UnitError as error:
                problems.append(Problem(loc, error.what, error.remedy))
        for name in re.findall(r"\{([^{}]*)\}", self.name or ""):
            if name not in names:
                problems.append(
                    Problem(("name",), f"unknown name {name!r}", suggest(name, names, "the names"))
                )
        refuse(problems, type(self).__name__)
        return self

    def _key_problems(self) -> Iterable[Problem]:
        seen: dict[str, str] = {}
        zip_locs = [
            ("zip",) if isinstance(self.zip, dict) else ("zip", index)
            for index in range(len(self.zips))
        ]
        parts: list[tuple[tuple[str | int, ...], Iterable[str]]] = [(("grid",), self.grid)]
        parts += [(loc, axes) for loc, axes in zip(zip_locs, self.zips, strict=True)]
        parts += [(("list", index), one) for index, one in enumerate(self.list_)]
        for loc, keys in parts:
            for key in keys:
                yield from _key_problem((*loc, key), key, whole=True)
                where = "list" if loc[0] == "list" else ".".join(map(str, loc))
                if seen.setdefault(key, where) != where:
                    yield Problem(
                        (*loc, key),
                        f"{key} is in {seen[key]} already",
                        "leave it out in one of them",
                    )

    def _zip_problems(self) -> Iterable[Problem]:
        for index, axes in enumerate(self.zips):
            loc = ("zip",) if isinstance(self.zip, dict) else ("zip", index)
            lengths = {key: len(values_of(axis)) for key, axis in axes.items()}
            if not lengths:
                yield Problem(loc, "this zip has no key")
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{count} of {key}" for key, count in lengths.items())
                yield Problem(
                    loc,
                    f"a zip needs as many values of each key: {counts}",
                    "use grid for all combinations",
                )


def _key_problem(loc: tuple[str | int, ...], key: str, *, whole: bool = False) -> Iterable[Problem]:
    """Whether `key` is a dotted path into a target, or with `whole` one of the names topology and
    workload.
    """
    target, *path = key.split(".")
    if whole and key in ("topology", "workload"):
        return
    if target not in TARGETS or not path or not all(path):
        remedy = f"begin it with {', '.join(f'{name}.' for name in TARGETS)}, as in topology.tcp.congestion_control"
        yield Problem(loc, f"{key!r} is not a key of the topology, the workload or the run", remedy)
    elif target == "run" and path[0] not in RunSettings.model_fields:
        yield Problem(
            loc, f"unknown key {key!r}", suggest(path[0], RunSettings.model_fields, "known keys")
        )


class Plot(Strict):
    """A figure of the sweep's page: columns of its table."""

    x: str
    y: str
    series: str | None = Field(
        None, description="a line for each of its values; of a heat map the other axis"
    )
    facet: str | None = Field(None, description="a panel for each of its values")
    kind: Literal["line", "heat"] = "line"
    title: str = ""


class Experiment(Strict):
    """An experiment, as written."""

    name: Name = "experiment"
    description: str = Field("", description="one line")
    topology: str = Field(description="a preset, or a file relative to this one")
    workload: str = Field("collectives", description="a preset, or a file relative to this one")
    settings: dict[str, Any] = Field({}, description="key: value, of all points")
    sweep: Sweep
    target_loss: float | None = Field(
        None, description="of training: the table says when it was reached"
    )
    plots: list[Plot] = Field([], description="figures of the page")
    _places: dict[str, Place] = PrivateAttr(default_factory=dict)
    _folder: Path | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Iterable[Override] = ()) -> Self:
        """The experiment of a preset's name or of a file, with ``--set experiment.KEY`` overrides.

        Raises:
            InputError: there is no such experiment, or it is wrong; names every error with its
                place.
        """
        path = EXPERIMENTS.find(name_or_path)
        source = yaml_reader.load(path)
        source.setdefault(
            "name", re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "experiment"
        )
        apply_overrides(source, overrides)
        try:
            experiment = cls.model_validate(source)
        except ValidationError as error:
            raise input_error(error, cls, lambda loc: yaml_reader.place_of(source, loc)) from error
        experiment._places = _places(source)
        experiment._folder = path.parent
        return experiment

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            problem for key in self.settings for problem in _key_problem(("settings", key), key)
        ]
        for key in self.sweep.keys:
            if key in self.settings:
                problems.append(
                    Problem(("settings", key), f"{key} is swept as well", "leave it out here")
                )
        refuse(problems, type(self).__name__)
        return self

    def place(self, key: str) -> Place:
        """Where `key` was written."""
        return self._places.get(key, Place(key=key))

    def file_of(self, name: str) -> str:
        """A topology or workload `name`: a path is relative to the experiment's file, if there is
        such a file.
        """
        beside = (self._folder or Path()) / name
        return (
            str(beside)
            if beside.is_file() and ("/" in name or name.endswith((".yaml", ".yml")))
            else name
        )

    def points(self) -> Iterable[Point]:
        """Every point that meets the conditions, in order: the last key of the grid varies first,
        then repeats.

        Raises:
            InputError: a condition cannot be evaluated for a point.
        """
        sweep, names = self.sweep, short_names(self.sweep.keys)
        conditions = [
            Condition.parse(text, [*names.values(), *names, "repeat"]) for text in sweep.conditions
        ]
        number = 0
        for values in self._combinations():
            for repeat in range(sweep.repeats):
                shown = {names[key]: value for key, value in values.items()}
                scope = {**values, **shown, "repeat": repeat}
                try:
                    if not all(condition(scope) for condition in conditions):
                        continue
                except UnitError as error:
                    raise InputError(
                        error.what, place=self.place("where"), remedy=error.remedy
                    ) from error
                label = point_name(sweep.name, scope, shown, repeat if sweep.repeats > 1 else None)
                yield Point(number, label, values, shown, repeat)
                number += 1

    def _combinations(self) -> Iterable[dict[str, Any]]:
        parts: list[Sequence[dict[str, Any]]] = []
        parts += [
            [{key: value} for value in values_of(axis)] for key, axis in self.sweep.grid.items()
        ]
        for axes in self.sweep.zips:
            rows = zip(*(values_of(axis) for axis in axes.values()), strict=True)
            parts.append([dict(zip(axes, row, strict=True)) for row in rows])
        if self.sweep.list_:
            parts.append(self.sweep.list_)
        for combination in product(*parts):
            yield {key: value for part in combination for key, value in part.items()}


@dataclass(frozen=True)
class Point:
    """One combination of values: by key in `values`, by short name in `shown`."""

    number: int
    name: str
    values: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """For each key as many of its last parts as tell it from the others."""
    result = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            short = ".".join(parts[-count:])
            if (
                sum(other == short or other.endswith(f".{short}") for other in keys) == 1
                and short not in TAKEN
            ):
                break
        result[key] = short
    return result


TAKEN = frozenset(
    {"name", "state", "repeat", "seed", "folder", "identity", "*"}
)  # other columns of a sweep's table


def value_text(value: Any) -> str:
    """A value of an axis as people write it, on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return (
        yaml_reader.dump(yaml_reader.plain(value)).strip().removesuffix("\n...").replace("\n", " ")
    )


def point_name(
    template: str | None, scope: Mapping[str, Any], shown: Mapping[str, Any], repeat: int | None
) -> str:
    """A name that a folder can have; braces of the template hold names of `scope`. Repeats end with
    their number.
    """
    if template is None:
        text = "_".join(
            f"{name.rpartition('.')[2]}-{_compact(value)}" for name, value in shown.items()
        )
    else:
        text = re.sub(r"\{([^{}]*)\}", lambda match: _compact(scope.get(match[1], "")), template)
    if repeat is not None and (template is None or "{repeat}" not in template):
        text += f"_repeat-{repeat}"
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:100] or "point"


def _compact(value: Any) -> str:
    text = value_text(value)
    return (
        text.replace(" ", "").replace("/", "p").replace("%", "pct")
        if quantity_of(value) is not None
        else text
    )


def _places(source: Section) -> dict[str, Place]:
    """Where each setting and each swept key was written."""
    found: dict[str, Place] = {}

    def take(section: Any) -> None:
        if isinstance(section, Section):
            found.update(section.places)

    take(source)
    take(source.get("settings"))
    sweep = source.get("sweep")
    if isinstance(sweep, Section):
        take(sweep)
        take(sweep.get("grid"))
        for part in (sweep.get("zip"), sweep.get("list")):
            for section in part if isinstance(part, list) else [part]:
                take(section)
    return found
