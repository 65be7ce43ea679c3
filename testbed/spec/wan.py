"""WAN links as written, and their expansion to single links.

An entry of `wan` is one link (``between: [iowa, ohio]``) or many (``mesh``, ``ring`` or ``star``:
``all`` or a list of datacenters; the first of a star is its centre). A ``between`` entry for a pair
in a shorthand refines that link. Every setting but `detour` and `shares` may be written per
direction: ``rate: {iowa->ohio: 10 Gbit/s, ohio->iowa: 1 Gbit/s}``; an omitted direction gets the
value of the shorthand or the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
)

from testbed.core.geo import DETOUR, MAX_DETOUR, Location, distance_km, fibre_delay_ns
from testbed.core.suggestions import suggest
from testbed.core.units import (
    DECIMAL_SIZE,
    TIME,
    Probability,
    Rate,
    Time,
    UnitError,
    format_size,
    format_time,
    parse_size,
    parse_time,
    pattern,
)
from testbed.spec.base import Count, Flag, Mistake, Strict, overlay
from testbed.spec.yaml_reader import Loc

T = TypeVar("T")
ARROW = "->"
SHORTHANDS = ("mesh", "ring", "star")
SHAPES = ("between", *SHORTHANDS)
DISTRIBUTIONS = ("uniform", "normal", "pareto", "paretonormal")
Discipline = Literal["drop-tail", "red", "fq_codel"]


def is_per_direction(value: Any) -> bool:
    """Return whether `value` is a mapping with a key such as ``iowa->ohio``."""
    if not isinstance(value, Mapping):
        return False
    return any(ARROW in str(key) for key in value)


def toward(value: Any, direction: str) -> Any:
    """Return the value of a setting for one direction.

    Args:
        value: A setting of a link, written per direction or not.
        direction: Name of the direction, such as ``iowa->ohio``.
    """
    return value[direction] if is_per_direction(value) else value


def _kind_of_setting(value: object) -> str:
    return "(each)" if is_per_direction(value) else "(both)"


DirectionName = Annotated[str, WithJsonSchema({"type": "string", "pattern": ARROW})]
PerDirection = Annotated[
    Annotated[T, Tag("(both)")] | Annotated[dict[DirectionName, T], Tag("(each)")],
    Discriminator(_kind_of_setting),
]


class GilbertElliott(Strict):
    """Bursty loss after Gilbert and Elliott.

    A link is in a good or in a bad state, which may change at each packet.
    """

    p: Probability = Field(
        description="probability per packet of going from the good to the bad state",
        examples=["0.1 %"],
    )
    r: Probability = Field(
        description="probability per packet of going back; a burst lasts 1 / r packets on average",
        examples=["20 %"],
    )
    loss_in_bad: Probability = Field(
        1.0, description="loss probability per packet in the bad state", examples=["50 %"]
    )
    loss_in_good: Probability = Field(
        0.0, description="loss probability per packet in the good state", examples=["0.01 %"]
    )


def _kind_of_loss(value: object) -> str:
    return "(bursts)" if isinstance(value, Mapping | GilbertElliott) else "(independent)"


Loss = Annotated[
    Annotated[Probability, Tag("(independent)")] | Annotated[GilbertElliott, Tag("(bursts)")],
    Discriminator(_kind_of_loss),
]


class QueueLength(NamedTuple):
    """A queue length in bandwidth-delay products, bytes, ns at the rate, or packets of an MTU."""

    amount: Decimal
    unit: Literal["bdp", "bytes", "time", "packets"]


_QUEUE_REMEDY = "use 1 bdp, 64 packets, a size such as 4 MiB or a time such as 20 ms"
_QUEUE_PATTERNS = (
    r"^\s*(?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:bdp|packets)\s*$",
    pattern(DECIMAL_SIZE),
    pattern(TIME),
)
QUEUE_SCHEMA = {
    "title": "queue",
    "description": _QUEUE_REMEDY,
    "examples": ["1 bdp"],
    "type": "string",
    "pattern": "|".join(_QUEUE_PATTERNS),
    "patternErrorMessage": _QUEUE_REMEDY,
}


def parse_queue(value: object) -> QueueLength:
    """Parse a queue length such as ``1 bdp``, ``64 packets``, ``4 MiB`` or ``20 ms``.

    Raises:
        UnitError: The value is none of these, or zero.
    """
    if isinstance(value, QueueLength):
        return value

    queue = _counted_queue(str(value))
    if queue is None and isinstance(value, str):
        queue = _measured_queue(value)
    if queue is None:
        raise UnitError(f"{value!r} is not a valid queue length", _QUEUE_REMEDY)
    if queue.amount == 0:
        raise UnitError("the queue must be greater than 0", _QUEUE_REMEDY)
    return queue


def _counted_queue(text: str) -> QueueLength | None:
    """Parse a queue length such as ``1.5 bdp`` or ``64 packets``; None for other texts."""
    number, _, unit = text.strip().partition(" ")
    digits = number.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()):
        return None
    if unit == "bdp":
        return QueueLength(Decimal(number), "bdp")
    if unit == "packets":
        return QueueLength(Decimal(number), "packets")
    return None


def _measured_queue(text: str) -> QueueLength | None:
    """Parse a queue length that is a size or a time; None for other texts."""
    try:
        return QueueLength(Decimal(parse_size(text)), "bytes")
    except UnitError:
        pass

    try:
        return QueueLength(Decimal(parse_time(text)), "time")
    except UnitError:
        return None


def format_queue(queue: QueueLength) -> str:
    """Return the exact text of a queue length."""
    if queue.unit == "bytes":
        return format_size(int(queue.amount))
    if queue.unit == "time":
        return format_time(int(queue.amount))
    return f"{queue.amount:f} {queue.unit}"


def _find_distribution(value: str, info: ValidationInfo) -> str:
    """Return the name of a distribution, or the path of a table's file."""
    if value in DISTRIBUTIONS:
        return value

    folder = (info.context or {}).get("folder", "")
    path = Path(folder) / value
    if not path.is_file():
        names = ", ".join(DISTRIBUTIONS)
        raise UnitError(f"{value!r} is neither {names} nor the file of a table")

    return str(path.resolve())


def _kind_of_members(value: object) -> str:
    return "(all)" if value == "all" else "(some)"


QueueField = Annotated[
    QueueLength,
    BeforeValidator(parse_queue),
    PlainSerializer(format_queue, when_used="json"),
    WithJsonSchema(QUEUE_SCHEMA),
]
Members = Annotated[
    Annotated[Literal["all"], Tag("(all)")] | Annotated[list[str], Tag("(some)")],
    Discriminator(_kind_of_members),
]


class LinkSettings(Strict):
    """Settings of a WAN link: the bottleneck (rate, queue) and the fibre (delay, impairments)."""

    rate: PerDirection[Rate] | None = Field(
        None,
        description="rate of the bottleneck, headers included; required for every link, here or "
        "in `defaults`",
    )
    delay: PerDirection[Time] | None = Field(
        None,
        description="one-way delay of the fibre; left out, computed from the locations of both "
        "ends and `detour`",
    )
    detour: Annotated[float, Field(ge=1, le=MAX_DETOUR, strict=True, allow_inf_nan=False)] = Field(
        DETOUR,
        description="ratio of fibre length to great-circle distance, where `delay` is left out",
    )
    jitter: PerDirection[Time] = Field(
        0, description="spread of the delay; at most the delay", examples=["100 us"]
    )
    distribution: PerDirection[Annotated[str, AfterValidator(_find_distribution)]] = Field(
        "uniform",
        description=f"distribution of the jitter: {', '.join(DISTRIBUTIONS)}, or the path of a "
        "netem table",
        examples=["normal"],
    )
    reorder: PerDirection[Flag] = Field(
        False, description="allow jitter to reorder packets", examples=[True]
    )
    loss: PerDirection[Loss] = Field(
        0.0, description="loss probability of each packet, or a mapping for bursty loss"
    )
    duplicate: PerDirection[Probability] = Field(
        0.0, description="probability that a packet arrives twice"
    )
    corrupt: PerDirection[Probability] = Field(
        0.0, description="probability that one bit of a packet is flipped"
    )
    queue: PerDirection[QueueField] | None = Field(
        None,
        description="buffer of the bottleneck; packets that exceed it are dropped; left out, 1 "
        "bdp, at least 64 packets",
    )
    discipline: PerDirection[Discipline] = Field(
        "drop-tail",
        description="queue discipline of the bottleneck: drop-tail, red (random early detection) "
        "or fq_codel",
    )
    ecn: PerDirection[Flag] = Field(
        False, description="mark packets instead of dropping them (red or fq_codel)"
    )
    weight: PerDirection[Count] = Field(1, description="cost of the link with `routing: weight`")
    shares: str | None = Field(
        None,
        description="name of a conduit: links that share one fail together",
        examples=["fibre-1"],
    )


class Wan(LinkSettings):
    """An entry of `wan`: one link, or the links of a shorthand."""

    between: tuple[str, str] | None = Field(
        None,
        description="the two datacenters of one link; overrides a link of a shorthand",
        examples=[["iowa", "ohio"]],
    )
    mesh: Members | None = Field(None, description="datacenters to link pairwise, or all")
    ring: Members | None = Field(
        None,
        description="datacenters to link in a ring, or all",
        examples=[["iowa", "ohio", "texas"]],
    )
    star: Members | None = Field(
        None,
        description="datacenters to link to the first one, or all",
        examples=[["iowa", "ohio", "texas"]],
    )

    @model_serializer(mode="wrap")
    def _shape_first(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the shape of the entry before its settings."""
        written: dict[str, Any] = serialize(self)
        ordered: dict[str, Any] = {}
        for name in SHAPES:
            if name in written:
                ordered[name] = written.pop(name)

        ordered.update(written)
        return ordered

    @property
    def shape(self) -> str | None:
        """The key of `between`, `mesh`, `ring` and `star` that is set; None for none or several."""
        written = [name for name in SHAPES if getattr(self, name) is not None]
        return written[0] if len(written) == 1 else None

    def pairs(self, datacenters: list[str]) -> list[tuple[str, str]]:
        """Return the two ends of every link of this entry, in the order written.

        Args:
            datacenters: The names of all datacenters, for a shorthand of ``all``.
        """
        if self.between is not None:
            return [self.between]

        members = getattr(self, self.shape or "mesh")
        names = datacenters if members == "all" else members or []
        if self.shape == "star":
            return [(names[0], name) for name in names[1:]]
        if self.shape == "ring":
            if len(names) < 3:
                return []

            following = names[1:] + names[:1]
            return list(zip(names, following, strict=True))

        return list(combinations(names, 2))


@dataclass(frozen=True)
class LinkDirection:
    """One direction of a link, in base units. `queue` None: the default."""

    source: str
    target: str
    rate: int
    delay: int
    jitter: int
    distribution: str
    reorder: bool
    loss: float | GilbertElliott
    duplicate: float
    corrupt: float
    queue: QueueLength | None
    discipline: Discipline
    ecn: bool
    weight: int

    @property
    def name(self) -> str:
        """``iowa->ohio``."""
        return f"{self.source}{ARROW}{self.target}"


@dataclass(frozen=True)
class Link:
    """A link between two datacenters; `key` is its two ends in the order written."""

    key: str
    forward: LinkDirection
    backward: LinkDirection
    conduit: str | None = None  # the conduit that the link shares with other links


class _Written(NamedTuple):
    """A link from the entries of `wan`, before its settings are checked."""

    ends: tuple[str, str]
    entry: int  # index in `wan` of the entry that errors about the link name
    settings: LinkSettings
    is_refined: bool  # by an entry with `between`


Locations = Mapping[str, Location | None]


def expand(
    wan: list[Wan], defaults: LinkSettings | None, locations: Locations
) -> tuple[list[Link], list[Mistake]]:
    """Return the links that `wan` describes, and the problems of `wan`.

    Args:
        wan: The entries of `wan`.
        defaults: Default settings of links.
        locations: The location of every datacenter, by name; None where the file gives none.

    Returns:
        The links, and the problems of `wan`. Links with a problem are left out; a shorthand
        reports each problem of its links once.
    """
    problems: list[Mistake] = []
    for index, entry in enumerate(wan):
        problems += _entry_problems(index, entry, list(locations))
    if defaults is not None:
        problems += _direction_problems(("defaults", "wan"), defaults, ())
    if problems:
        return [], problems

    written_links, problems = _written_links(wan, defaults, list(locations))
    links: dict[str, Link] = {}
    for written in written_links:
        key = "-".join(written.ends)
        link_problems = list(_link_problems(written, locations))
        if key in links:
            what = f"duplicate link key {key!r}"
            link_problems.append(Mistake(("wan", written.entry), what, "rename a datacenter"))

        if link_problems:
            problems += link_problems
        else:
            links[key] = _link(key, written, locations)

    return list(links.values()), _first_at_each_place(problems)


def _first_at_each_place(problems: list[Mistake]) -> list[Mistake]:
    """Return the first problem at each location, ordered by the last problem there."""
    first: dict[Loc, Mistake] = {}
    for problem in reversed(problems):
        first[problem.loc] = problem
    return list(reversed(first.values()))


def _link(key: str, written: _Written, locations: Locations) -> Link:
    start, end = written.ends
    return Link(
        key=key,
        forward=_direction(written.settings, start, end, locations),
        backward=_direction(written.settings, end, start, locations),
        conduit=written.settings.shares,
    )


def _entry_problems(index: int, entry: Wan, datacenters: list[str]) -> Iterator[Mistake]:
    if entry.shape is None:
        what = "a link needs exactly one of between, mesh, ring and star"
        yield Mistake(("wan", index), what)
        return

    members = getattr(entry, entry.shape)
    names = datacenters if members == "all" else list(members)
    loc = ("wan", index, entry.shape)
    for name in dict.fromkeys(names):
        if name not in datacenters:
            suggestion = suggest(name, datacenters, "datacenters")
            yield Mistake(loc, f"unknown datacenter {name!r}", suggestion)

    if len(set(names)) < len(names):
        yield Mistake(loc, f"duplicate datacenter: {', '.join(names)}")

    least = 3 if entry.shape == "ring" else 2
    if len(names) < least:
        yield Mistake(loc, f"a {entry.shape} needs at least {least} datacenters")

    yield from _direction_problems(("wan", index), entry, entry.between or ())


def _direction_problems(
    loc: Loc, settings: LinkSettings, ends: tuple[str, ...]
) -> Iterator[Mistake]:
    """Yield the values per direction that do not name a direction of the link."""
    for name in LinkSettings.model_fields:
        value = getattr(settings, name)
        if not is_per_direction(value):
            continue
        if not ends:
            what = "values per direction require an entry with `between`"
            yield Mistake((*loc, name), what)
            continue

        allowed = _direction_names(ends)
        for direction in value:
            if direction not in allowed:
                what = f"{direction!r} is not a direction of this link"
                remedy = f"directions: {' and '.join(allowed)}"
                yield Mistake((*loc, name, direction), what, remedy)


def _direction_names(ends: tuple[str, ...]) -> tuple[str, str]:
    """Return the names of both directions of a link: ``iowa->ohio``, ``ohio->iowa``."""
    return ARROW.join(ends), ARROW.join(reversed(ends))


def _written_links(
    wan: list[Wan], defaults: LinkSettings | None, datacenters: list[str]
) -> tuple[list[_Written], list[Mistake]]:
    """Return all links with settings merged: defaults, shorthand, then `between` entry."""
    base = overlay(LinkSettings(), defaults)
    links: dict[frozenset[str], _Written] = {}
    problems: list[Mistake] = []
    for index, entry in _shorthands_first(wan):
        refines = entry.between is not None
        for ends in entry.pairs(datacenters):
            pair = frozenset(ends)
            old = links.get(pair)
            if old is not None and (old.is_refined or not refines):
                what = f"a second link between {ends[0]} and {ends[1]}"
                remedy = "use at most one link between two datacenters"
                problems.append(Mistake(("wan", index), what, remedy))
                continue

            lower = base if old is None else old.settings
            settings = _refined(lower, entry, ends)
            links[pair] = _Written(
                ends=ends,
                entry=index,
                settings=settings,
                is_refined=refines,
            )

    return list(links.values()), problems


def _shorthands_first(wan: list[Wan]) -> list[tuple[int, Wan]]:
    """Return the entries with their indices; entries with `between` come last."""

    def is_link(indexed_entry: tuple[int, Wan]) -> bool:
        _, entry = indexed_entry
        return entry.shape == "between"

    return sorted(enumerate(wan), key=is_link)


def _refined(base: LinkSettings, entry: Wan, ends: tuple[str, str]) -> LinkSettings:
    """Return `base` with the settings of `entry`.

    Where `entry` sets one direction of a link, the other direction keeps the value of `base`.
    """
    both_directions: dict[str, Any] = {}
    for name in LinkSettings.model_fields:
        value = getattr(entry, name)
        if is_per_direction(value):
            values = dict.fromkeys(_direction_names(ends), getattr(base, name))
            values.update(value)
            both_directions[name] = values

    return overlay(base, entry).model_copy(update=both_directions)


def _link_problems(written: _Written, locations: Locations) -> Iterator[Mistake]:
    """Yield the problems of the settings of each direction of a link."""
    missing_locations: list[str] = []
    for end in sorted(written.ends):
        if locations[end] is None:
            missing_locations.append(end)

    loc = ("wan", written.entry)
    settings = written.settings
    for name in _direction_names(written.ends):
        if toward(settings.rate, name) is None:
            what = f"{name} has no rate"
            yield Mistake((*loc, "rate"), what, "add a rate, such as 10 Gbit/s")

        delay = toward(settings.delay, name)
        if delay is None and missing_locations:
            remedy = f"add a delay, or the location of {' and '.join(missing_locations)}"
            yield Mistake((*loc, "delay"), f"{name} has no delay", remedy)
        elif delay is not None and toward(settings.jitter, name) > delay:
            yield Mistake((*loc, "jitter"), f"the jitter of {name} exceeds its delay")

        discipline = toward(settings.discipline, name)
        if discipline == "drop-tail" and toward(settings.ecn, name):
            what = f"{name} has ecn, but a drop-tail queue cannot mark packets"
            yield Mistake((*loc, "ecn"), what, "add discipline: red or fq_codel")


def _direction(
    settings: LinkSettings, source: str, target: str, locations: Locations
) -> LinkDirection:
    values: dict[str, Any] = {}
    direction = f"{source}{ARROW}{target}"
    for name in LinkSettings.model_fields:
        if name not in ("detour", "shares"):
            value = getattr(settings, name)
            values[name] = toward(value, direction)

    start = locations[source]
    end = locations[target]
    if values["delay"] is None and start is not None and end is not None:
        km = distance_km(start, end)
        values["delay"] = fibre_delay_ns(km, settings.detour)

    return LinkDirection(source, target, **values)
