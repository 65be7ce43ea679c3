"""The experiment file: a topology, a workload, and the values of their settings in a sweep.

    name: allreduce
    topology: two-sites                     # a preset, or a file in the same folder
    workload: collectives
    settings: {workload.ops: [all_reduce], run.isolation: process}
    sweep:
      grid:                                 # all combinations of the values of these keys
        topology.wan.iowa-ohio.delay: {from: 1 ms, to: 100 ms, points: 5, scale: log}
        workload.algorithm: [gloo, hierarchical]
      zip:                                  # the n-th values of these keys together
        topology.wan.iowa-ohio.rate: [1 Gbit/s, 10 Gbit/s]
        run.guest_memory: [3 GiB, 4 GiB]
      list:                                 # explicit points
        - {workload.sizes: [1 MiB], workload.iterations: 5}
      where: rate >= 1 Gbit/s               # one condition or a list; all must hold
      repeats: 3
      name: "{algorithm}-{delay}"

Grid, zips and list are combined: every combination of the grid with every row of each zip and every
entry of the list. A key is a dotted path into the topology, the workload or the run, as after
``--set``. The last part of a key is its short name; two keys with the same last part also get the
part before.

An experiment may have ``find`` instead of ``sweep`` (`testbed.spec.find`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationError, model_validator

from testbed.core.errors import InputError, Place, reading
from testbed.core.suggestions import suggest
from testbed.core.units import UnitError
from testbed.spec import yaml_reader
from testbed.spec.axis import Axes, values_of
from testbed.spec.base import Count, Mistake, Strict, input_error, refuse
from testbed.spec.columns import columns_of_axes, measured_columns
from testbed.spec.condition import Condition, quantity_of
from testbed.spec.find import FindBlock
from testbed.spec.full_keys import full_keys
from testbed.spec.options import experiment_options
from testbed.spec.overrides import Override, apply_overrides
from testbed.spec.presets import EXPERIMENTS
from testbed.spec.published import Published
from testbed.spec.short_names import short_names
from testbed.spec.topology import Name, Topology
from testbed.spec.yaml_reader import Loc, Section

TARGETS = ("topology", "workload", "run")
LONGEST_NAME = 100  # characters
_IN_BRACES = re.compile(r"\{([^{}]*)\}")


def _kind_of_zip(value: object) -> str:
    return "(several)" if isinstance(value, list) else "(one)"


class SweepBlock(Strict):
    """The values that a sweep gives to keys, and the names of its points."""

    grid: Axes = Field({}, description="key: values; take all combinations")
    zip: Annotated[
        Annotated[Axes, Tag("(one)")] | Annotated[list[Axes], Tag("(several)")],
        Discriminator(_kind_of_zip),
    ] = Field(
        {}, description="key: values; combine the first values, then the second ones, and so on"
    )
    list_: list[dict[str, Any]] = Field(
        [], alias="list", description="points, each a mapping of keys to values"
    )
    where: str | list[str] = Field([], description="conditions that every point must meet")
    repeats: Count = Field(1, description="number of runs of each point, with different seeds")
    name: str | None = Field(None, description="name of a point, such as {algorithm}-{delay}")

    @property
    def zips(self) -> list[Axes]:
        """All zips."""
        if isinstance(self.zip, list):
            return self.zip
        return [self.zip] if self.zip else []

    @property
    def conditions(self) -> list[str]:
        """All conditions."""
        if isinstance(self.where, str):
            return [self.where]
        return self.where

    @property
    def keys(self) -> list[str]:
        """All keys whose value differs between points, in the order written."""
        keys = list(self.grid)
        for axes in self.zips:
            keys += axes

        for values in self.list_:
            keys += values
        return list(dict.fromkeys(keys))

    @property
    def values_by_key(self) -> dict[str, list[Any]]:
        """The values of each key that differs between points."""
        values: dict[str, list[Any]] = {key: [] for key in self.keys}
        for axes in (self.grid, *self.zips):
            for key, axis in axes.items():
                values[key] += values_of(axis)
        for point in self.list_:
            for key, value in point.items():
                values[key].append(value)
        return values

    @property
    def size(self) -> int:
        """Number of points before the conditions."""
        size = self.repeats
        for axis in self.grid.values():
            size *= len(values_of(axis))

        for axes in self.zips:
            first_axis = next(iter(axes.values()))
            size *= len(values_of(first_axis))

        if self.list_:
            size *= len(self.list_)
        return size

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            *self._key_problems(),
            *self._zip_problems(),
            *self._empty_problems(),
        ]
        refuse(problems, type(self).__name__)

        shorts = short_names(self.keys)
        names = [*shorts.values(), *self.keys, "repeat"]
        problems = [
            *self._condition_problems(names),
            *self._template_problems(names),
        ]
        refuse(problems, type(self).__name__)
        return self

    def _zip_loc(self, index: int) -> Loc:
        if isinstance(self.zip, dict):
            return ("zip",)
        return ("zip", index)

    def _key_problems(self) -> Iterator[Mistake]:
        """Yield a problem for each invalid key, and each key in two parts of the sweep."""
        part_of_key: dict[str, str] = {}
        for loc, keys in self._keys_by_part():
            part = ".".join(map(str, loc))
            if loc[0] == "list":
                part = "list"

            for key in keys:
                yield from _key_problems((*loc, key), key, may_be_whole=True)
                first_part = part_of_key.setdefault(key, part)
                if first_part != part:
                    what = f"{key} already varied by {first_part}"
                    yield Mistake((*loc, key), what, "remove the key from one of them")

    def _keys_by_part(self) -> Iterator[tuple[Loc, Iterable[str]]]:
        """Yield the keys of the grid, of each zip and of each point of the list."""
        yield ("grid",), self.grid
        for index, axes in enumerate(self.zips):
            yield self._zip_loc(index), axes
        for index, values in enumerate(self.list_):
            yield ("list", index), values

    def _zip_problems(self) -> Iterator[Mistake]:
        for index, axes in enumerate(self.zips):
            loc = self._zip_loc(index)
            if not axes:
                yield Mistake(loc, "this zip has no keys")

            lengths: set[int] = set()
            counts: list[str] = []
            for key, axis in axes.items():
                length = len(values_of(axis))
                lengths.add(length)
                counts.append(f"{length} of {key}")

            if len(lengths) > 1:
                what = f"all keys of a zip need the same number of values: {', '.join(counts)}"
                yield Mistake(loc, what, "use grid for all combinations")

    def _empty_problems(self) -> Iterator[Mistake]:
        if not self.keys:
            what = "the sweep is empty"
            yield Mistake(("grid",), what, "add grid, zip or list with at least one key")

        for index, values in enumerate(self.list_):
            if not values:
                yield Mistake(("list", index), "this point sets no key")

    def _condition_problems(self, names: Sequence[str]) -> Iterator[Mistake]:
        for index, text in enumerate(self.conditions):
            loc: Loc = ("where", index)
            if isinstance(self.where, str):
                loc = ("where",)

            try:
                Condition.parse(text, names)
            except UnitError as error:
                yield Mistake(loc, error.what, error.remedy)

    def _template_problems(self, names: Sequence[str]) -> Iterator[Mistake]:
        """Yield a problem for each unknown name in the template of point names."""
        for name in _IN_BRACES.findall(self.name or ""):
            if name not in names:
                suggestion = suggest(name, names, "known names")
                yield Mistake(("name",), f"unknown name {name!r}", suggestion)


def _key_problems(loc: Loc, key: str, *, may_be_whole: bool = False) -> Iterator[Mistake]:
    """Yield the problems of a dotted path into the topology, the workload or the run.

    With `may_be_whole`, the key may also be ``topology`` or ``workload``.
    """
    if may_be_whole and key in ("topology", "workload"):
        return

    target, *path = key.split(".")
    if target not in TARGETS or not path or not all(path):
        what = f"{key!r} is not a valid key"
        prefixes = ", ".join(f"{name}." for name in TARGETS)
        remedy = f"start the key with {prefixes}"
        meant = full_keys(key.split("."), TARGETS)
        example = " or ".join(meant) or "topology.tcp.congestion_control"
        yield Mistake(loc, what, f"{remedy}, such as {example}")
        return

    run_keys = [option.name for option in experiment_options()]
    if target == "run" and path[0] not in run_keys:
        suggestion = suggest(path[0], run_keys, "known keys")
        yield Mistake(loc, f"unknown key {key!r}", suggestion)


class Plot(Strict):
    """A figure of the sweep's page: columns of its table."""

    x: str
    y: str
    series: str | None = Field(
        None,
        description="key or column with a line for each value; in a heat map, the vertical axis",
    )
    facet: str | None = Field(None, description="key or column with a panel for each value")
    kind: Literal["line", "heat"] = "line"
    title: str = ""


@dataclass(frozen=True)
class GivenTopology:
    """A topology made in Python, which a sweep keeps in a file of its folder.

    Attributes:
        text: The topology as YAML.
        file: Path of the file, for the commands that repeat a point.
    """

    text: str
    file: Path


class Experiment(Strict):
    """An experiment, as written."""

    name: Name = "experiment"
    description: str = Field("", description="one-line description")
    topology: str = Field(description="preset, or file relative to this one")
    workload: str = Field("collectives", description="preset, or file relative to this one")
    settings: dict[str, Any] = Field({}, description="key: value; settings of all points")
    sweep: SweepBlock = Field(default_factory=SweepBlock.model_construct)
    find: FindBlock | None = Field(
        None, description="search for a value; instead of sweep (`testbed find`)"
    )
    target_loss: float | None = Field(
        None, description="training loss; the table shows the time at which each point reached it"
    )
    plots: list[Plot] = Field([], description="figures of the page")
    published: Published | None = Field(
        None, description="published measurements, which `testbed reproduce` compares"
    )
    _places: dict[str, Place] = PrivateAttr(default_factory=dict)
    _folder: Path | None = PrivateAttr(default=None)
    _given: GivenTopology | None = PrivateAttr(default=None)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Iterable[Override] = ()) -> Self:
        """Load an experiment from a preset or a file.

        Args:
            name_or_path: Name of a preset, or path of a file.
            overrides: Settings of ``--set experiment.KEY`` that replace values of the file.

        Raises:
            InputError: The experiment does not exist or is wrong; the message lists every error.
        """
        path = EXPERIMENTS.find(name_or_path)
        with reading(path):
            source = yaml_reader.load(path)
            stem = path.stem.lower()
            name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
            source.setdefault("name", name or "experiment")
            experiment = cls._of(source, overrides)
        experiment._folder = path.parent
        return experiment

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], overrides: Iterable[Override] = ()) -> Self:
        """Return an experiment from a mapping; paths are relative to the working directory.

        Args:
            mapping: Keys and values as in a file.
            overrides: Settings that replace values of `mapping`.

        Raises:
            InputError: The experiment is wrong; the message lists every error.
        """
        text = yaml_reader.text_of(mapping, "experiment")
        return cls._of(yaml_reader.parse(text, None), overrides)

    @classmethod
    def _of(cls, source: Section, overrides: Iterable[Override]) -> Self:
        apply_overrides(source, overrides)
        try:
            experiment = cls.model_validate(source)
        except ValidationError as error:
            locate = partial(yaml_reader.place_of, source)
            raise input_error(error, cls, locate) from error

        experiment._places = _places_of_keys(source)
        return experiment

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems: list[Mistake] = list(self._block_problems())
        refuse(problems, type(self).__name__)
        for key in self.settings:
            problems += _key_problems(("settings", key), key)

        for key in self.varied.keys:
            if key in self.settings:
                what = f"{key} is also varied by the sweep"
                problems.append(Mistake(("settings", key), what, "remove the key here"))

        problems += self._plot_problems()
        refuse(problems, type(self).__name__)
        return self

    def _block_problems(self) -> Iterator[Mistake]:
        """Yield a problem without exactly one of `sweep` and `find`, and for invalid keys."""
        has_sweep = "sweep" in self.model_fields_set
        if self.find is None:
            if not has_sweep:
                yield Mistake(("sweep",), "required key is missing")
            return
        if has_sweep:
            what = "an experiment has either sweep or find"
            yield Mistake(("find",), what, "remove one of them")

        for loc, key in self.find.sought.items():
            yield from _key_problems(("find", *loc), key, may_be_whole=True)
        for key in self.find.axes:
            yield from _key_problems(("find", "for", key), key, may_be_whole=True)

    @property
    def varied(self) -> SweepBlock:
        """The keys that differ between points, with all their values."""
        if self.find is None:
            return self.sweep
        return SweepBlock(grid=self.find.grid)

    def _plot_problems(self) -> Iterator[Mistake]:
        """Yield a problem for each column of a figure that the sweep's table will not have."""
        values = self.varied.values_by_key
        values_by_name: dict[str, Sequence[Any]] = {}
        for key, name in short_names(list(values)).items():
            values_by_name[name] = values[key]
        axes, axis_numbers = columns_of_axes(values_by_name)

        workloads = {self.workload}
        for workload in values.get("workload", ()):
            workloads.add(str(workload))
        has_target = self.target_loss is not None
        measured, measured_numbers = measured_columns(workloads, has_target=has_target)
        known = [*axes, *measured]
        numbers = [*axis_numbers, *measured_numbers]
        for index, plot in enumerate(self.plots):
            for key in ("x", "y", "series", "facet"):
                column = getattr(plot, key)
                loc = ("plots", index, key)
                if column is not None and column not in known:
                    what = f"the sweep's table has no column {column!r}"
                    yield Mistake(loc, what, suggest(column, known, "its columns"))
                elif key == "y" and column not in numbers:
                    what = f"the column {column!r} holds no numbers"
                    yield Mistake(loc, what, f"columns of numbers: {', '.join(numbers)}")

    def place(self, key: str) -> Place:
        """Return the place at which `key` was written."""
        return self._places.get(key, Place(key=key))

    def with_topology(self, topology: GivenTopology) -> Self:
        """Return the experiment with a topology made in Python.

        Raises:
            InputError: The sweep varies the topology.
        """
        if "topology" in self.varied.keys:
            raise InputError(
                "already varied by the sweep",
                place=Place("topology"),
                remedy="remove the topology, or its values in the sweep",
            )
        experiment = self.model_copy(update={"topology": topology.file.name})
        experiment._given = topology
        return experiment

    @property
    def given_topology(self) -> GivenTopology | None:
        """The topology made in Python; None: `topology` names a preset or a file."""
        return self._given

    def load_topology(self, name: str, overrides: Iterable[Override]) -> Topology:
        """Load the topology of a point.

        Args:
            name: The value of `topology` at the point.
            overrides: Settings of the topology at the point.

        Raises:
            InputError: The topology does not exist or is wrong; the message lists every error.
        """
        if self._given is None:
            return Topology.load(self.file_of(name), overrides)
        try:
            return Topology.from_yaml(self._given.text, overrides)
        except InputError as error:
            if error.place.file is not None:
                raise
            key = f"topology.{error.place.key}" if error.place.key else "topology"
            raise InputError(error.what, place=Place(key), remedy=error.remedy) from error

    def file_of(self, name: str) -> str:
        """Return the file of a topology or workload, relative to the experiment's file.

        Args:
            name: The name of a preset, or a path.

        Returns:
            Path of an existing file in the experiment's folder, otherwise `name`.
        """
        folder = self._folder or Path()
        file = folder / name
        is_path = "/" in name or name.endswith((".yaml", ".yml"))
        if is_path and file.is_file():
            return str(file)
        return name

    def points(self) -> Iterator[Point]:
        """Yield the points that meet the conditions, in order.

        Repeats vary fastest, then the last key of the grid.

        Raises:
            InputError: A condition cannot be evaluated for a point.
        """
        sweep = self.varied
        names = short_names(sweep.keys)
        known = [*names.values(), *names, "repeat"]
        conditions = [Condition.parse(text, known) for text in sweep.conditions]
        for values in self._combinations(sweep):
            shown = {names[key]: value for key, value in values.items()}
            for repeat in range(sweep.repeats):
                scope = {**values, **shown, "repeat": repeat}
                if not self._meets(conditions, scope):
                    continue

                shown_repeat = repeat if sweep.repeats > 1 else None
                name = point_name(sweep.name, scope, shown, shown_repeat)
                yield Point(name=name, values=values, shown=shown, repeat=repeat)

    def point_of(self, values: Mapping[str, Any], repeat: int = 0) -> Point:
        """Return the point with these values of all keys that differ between points.

        Args:
            values: Values by key.
            repeat: Number of the repeat, from 0; each has a different seed.
        """
        repeated = self.find is not None and self.find.repeats > 1
        names = short_names(list(values))
        shown = {names[key]: value for key, value in values.items()}
        name = point_name(None, {**values, **shown}, shown, repeat if repeated else None)
        return Point(name=name, values=values, shown=shown, repeat=repeat)

    def _meets(self, conditions: Sequence[Condition], scope: Mapping[str, Any]) -> bool:
        try:
            return all(condition(scope) for condition in conditions)
        except UnitError as error:
            place = self.place("where")
            raise InputError(error.what, place=place, remedy=error.remedy) from error

    def _combinations(self, sweep: SweepBlock) -> Iterator[dict[str, Any]]:
        """Yield the values of each combination, by key."""
        parts: list[Sequence[dict[str, Any]]] = []
        for key, axis in sweep.grid.items():
            parts.append([{key: value} for value in values_of(axis)])

        for axes in sweep.zips:
            columns = [values_of(axis) for axis in axes.values()]
            rows = zip(*columns, strict=True)
            points = [dict(zip(axes, row, strict=True)) for row in rows]
            parts.append(points)

        if sweep.list_:
            parts.append(sweep.list_)

        for combination in product(*parts):
            values: dict[str, Any] = {}
            for part in combination:
                values.update(part)
            yield values


@dataclass(frozen=True)
class Point:
    """One combination of values: by key in `values`, by short name in `shown`."""

    name: str
    values: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 0


def value_text(value: Any) -> str:
    """Format a value of an axis for people, on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value).lower()

    document = yaml_reader.dump(yaml_reader.plain(value)).strip()
    return document.removesuffix("\n...").replace("\n", " ")


def point_name(
    template: str | None, scope: Mapping[str, Any], shown: Mapping[str, Any], repeat: int | None
) -> str:
    """Return the name of a point, which is also valid as a folder name.

    Args:
        template: A text with names of `scope` in braces; None names every value of `shown`.
        scope: All values of the point, by key and by short name.
        shown: The values of the point by short name.
        repeat: Number at the end of the name; None: no number.
    """
    if template is None:
        parts: list[str] = []
        for name, value in shown.items():
            last_part = name.rpartition(".")[2]
            parts.append(f"{last_part}-{_compact(value)}")

        text = "_".join(parts)
    else:

        def value_of(braces: re.Match[str]) -> str:
            return _compact(scope.get(braces[1], ""))

        text = _IN_BRACES.sub(value_of, template)

    names_repeat = template is not None and "{repeat}" in template
    if repeat is not None and not names_repeat:
        text += f"_repeat-{repeat}"

    valid = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")
    return valid[:LONGEST_NAME] or "point"


def _compact(value: Any) -> str:
    text = value_text(value)
    if quantity_of(value) is None:
        return text
    return text.replace(" ", "").replace("/", "p").replace("%", "pct")


def _places_of_keys(source: Section) -> dict[str, Place]:
    """Return the place of each setting and each swept key."""
    sections: list[Any] = [source, source.get("settings")]
    sweep = source.get("sweep")
    if isinstance(sweep, Section):
        sections += [sweep, sweep.get("grid")]
        for part in (sweep.get("zip"), sweep.get("list")):
            sections += part if isinstance(part, list) else [part]

    places: dict[str, Place] = {}
    for section in sections:
        if isinstance(section, Section):
            places.update(section.places)

    find = source.get("find")
    if isinstance(find, Section):
        places.update(_places_of_search(find))
    return places


def _places_of_search(find: Section) -> dict[str, Place]:
    """Return the place of the key that a search varies, and of each key of ``for``."""
    places: dict[str, Place] = {}
    axes = find.get("for")
    if isinstance(axes, Section):
        places.update(axes.places)
    for goal in ("least", "largest"):
        if goal in find:
            places[str(find[goal])] = find.places[goal]
    return places
