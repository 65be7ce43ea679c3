"""WAN links as written, and the links that they stand for.

An entry of `wan` is one link (``between: [iowa, ohio]``) or many (``mesh``, ``ring`` or ``star``:
``all`` or a list of datacenters; the first of a star is its centre). A ``between`` entry for a pair
that a shorthand covers refines that link. Every setting but `detour` and `shares` may be written
per direction: ``rate: {iowa->ohio: 10 Gbit/s, ohio->iowa: 1 Gbit/s}``; a direction that is not
named has what the shorthand or the defaults say.
"""

from __future__ import annotations

from collections.abc import Mapping
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

from testbed.core.geo import DETOUR, Location, distance_km, fibre_delay_ns
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
from testbed.spec.base import Count, Flag, Problem, Strict, overlay, suggest

T = TypeVar("T")
ARROW = "->"
SHORTHANDS = ("mesh", "ring", "star")
SHAPES = ("between", *SHORTHANDS)
DISTRIBUTIONS = ("uniform", "normal", "pareto", "paretonormal")
Discipline = Literal["drop-tail", "red", "fq_codel"]


def is_per_direction(value: Any) -> bool:
    """Whether `value` is written per direction: a mapping with a key such as ``iowa->ohio``."""
    return isinstance(value, Mapping) and any(ARROW in str(key) for key in value)


Way = Annotated[str, WithJsonSchema({"type": "string", "pattern": ARROW})]
PerDirection = Annotated[
    Annotated[T, Tag("(both)")] | Annotated[dict[Way, T], Tag("(each)")],
    Discriminator(lambda value: "(each)" if is_per_direction(value) else "(both)"),
]


class GilbertElliott(Strict):
    """Bursty loss after Gilbert and Elliott: a link is in a good or in a bad state, which may
    change at each packet.
    """

    p: Probability = Field(description="of going from good to bad, per packet", examples=["0.1 %"])
    r: Probability = Field(
        description="of going back, per packet; a burst lasts 1 / r packets", examples=["20 %"]
    )
    loss_in_bad: Probability = Field(
        1.0, description="per packet in the bad state", examples=["50 %"]
    )
    loss_in_good: Probability = Field(
        0.0, description="per packet in the good state", examples=["0.01 %"]
    )


Loss = Annotated[
    Annotated[Probability, Tag("(independent)")] | Annotated[GilbertElliott, Tag("(bursts)")],
    Discriminator(
        lambda value: "(bursts)" if isinstance(value, Mapping | GilbertElliott) else "(independent)"
    ),
]


class QueueLength(NamedTuple):
    """A buffer: `amount` bandwidth-delay products of the link, bytes, ns of its rate, or packets of
    MTU size.
    """

    amount: Decimal
    unit: Literal["bdp", "bytes", "time", "packets"]


_QUEUE_REMEDY = "write it as 1 bdp, 64 packets, a size such as 4 MiB or a time such as 20 ms"
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
    """Read a queue such as ``1 bdp``, ``64 packets``, ``4 MiB`` or ``20 ms``.

    Raises:
        UnitError: it is none of these, or zero.
    """
    if isinstance(value, QueueLength):
        return value
    number, _, unit = str(value).strip().partition(" ")
    queue: QueueLength | None = None
    if (
        unit in ("bdp", "packets")
        and number.replace(".", "", 1).isascii()
        and number.replace(".", "", 1).isdigit()
    ):
        queue = QueueLength(Decimal(number), "bdp" if unit == "bdp" else "packets")
    elif isinstance(value, str):
        for read, kind in ((parse_size, "bytes"), (parse_time, "time")):
            try:
                queue = queue or QueueLength(
                    Decimal(read(value)), "bytes" if kind == "bytes" else "time"
                )
            except UnitError:
                continue
    if queue is None:
        raise UnitError(f"{value!r} is not a queue", _QUEUE_REMEDY)
    if queue.amount == 0:
        raise UnitError("a queue of 0 passes nothing", _QUEUE_REMEDY)
    return queue


def format_queue(queue: QueueLength) -> str:
    """The exact text of a queue."""
    if queue.unit == "bytes":
        return format_size(int(queue.amount))
    if queue.unit == "time":
        return format_time(int(queue.amount))
    return f"{queue.amount:f} {queue.unit}"


def _distribution(value: str, info: ValidationInfo) -> str:
    if value in DISTRIBUTIONS:
        return value
    path = Path((info.context or {}).get("folder", "")) / value
    if not path.is_file():
        raise UnitError(f"{value!r} is neither {', '.join(DISTRIBUTIONS)} nor the file of a table")
    return str(path.resolve())


QueueField = Annotated[
    QueueLength,
    BeforeValidator(parse_queue),
    PlainSerializer(format_queue, when_used="json"),
    WithJsonSchema(QUEUE_SCHEMA),
]
Members = Annotated[
    Annotated[Literal["all"], Tag("(all)")] | Annotated[list[str], Tag("(some)")],
    Discriminator(lambda value: "(some)" if isinstance(value, list) else "(all)"),
]


class LinkSettings(Strict):
    """What a WAN link is like: the bottleneck (rate, queue) and the fibre (delay and
    impairments).
    """

    rate: PerDirection[Rate] | None = Field(
        None,
        description="of the bottleneck, headers included; every link needs one, here or in `defaults`",
    )
    delay: PerDirection[Time] | None = Field(
        None,
        description="of the fibre, one way; left out, from the locations of both ends and `detour`",
    )
    detour: Annotated[float, Field(ge=1, strict=True, allow_inf_nan=False)] = Field(
        DETOUR,
        description="length of the fibre over that of the great circle, where `delay` is left out",
    )
    jitter: PerDirection[Time] = Field(
        0, description="spread of the delay; at most the delay", examples=["100 us"]
    )
    distribution: PerDirection[Annotated[str, AfterValidator(_distribution)]] = Field(
        "uniform",
        description=f"of the jitter: {', '.join(DISTRIBUTIONS)}, or the path of a netem table",
        examples=["normal"],
    )
    reorder: PerDirection[Flag] = Field(
        False, description="whether jitter may reorder packets", examples=[True]
    )
    loss: PerDirection[Loss] = Field(0.0, description="chance of each packet; or in bursts")
    duplicate: PerDirection[Probability] = Field(
        0.0, description="chance of each packet to arrive twice"
    )
    corrupt: PerDirection[Probability] = Field(
        0.0, description="chance of each packet to have one bit flipped"
    )
    queue: PerDirection[QueueField] | None = Field(
        None,
        description="buffer of the bottleneck, which drops what exceeds it; left out, 1 bdp, at least 64 packets",
    )
    discipline: PerDirection[Discipline] = Field(
        "drop-tail",
        description="of the bottleneck's queue: drop-tail, red (random early detection) or fq_codel",
    )
    ecn: PerDirection[Flag] = Field(
        False, description="whether red or fq_codel marks packets instead of dropping them"
    )
    weight: PerDirection[Count] = Field(
        1, description="cost of the link where routing is by weight"
    )
    shares: str | None = Field(
        None,
        description="name of a conduit: links that share one fail together",
        examples=["fibre-1"],
    )


class Wan(LinkSettings):
    """An entry of `wan`: one link, or the links of a shorthand."""

    between: tuple[str, str] | None = Field(
        None,
        description="one link, by its two datacenters; or what is different in one of a shorthand's",
        examples=[["iowa", "ohio"]],
    )
    mesh: Members | None = Field(None, description="a link between every two datacenters")
    ring: Members | None = Field(
        None,
        description="a link from each to the next, and from the last to the first",
        examples=[["iowa", "ohio", "texas"]],
    )
    star: Members | None = Field(
        None,
        description="a link from the first to each of the others",
        examples=[["iowa", "ohio", "texas"]],
    )

    @model_serializer(mode="wrap")
    def _shape_first(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What the entry is before how it is, as people write it."""
        written: dict[str, Any] = serialize(self)
        return {name: written.pop(name) for name in SHAPES if name in written} | written

    @property
    def shape(self) -> str | None:
        """Which of `between`, `mesh`, `ring` and `star` is written; None unless it is exactly
        one.
        """
        written = [name for name in SHAPES if getattr(self, name) is not None]
        return written[0] if len(written) == 1 else None

    def pairs(self, datacenters: list[str]) -> list[tuple[str, str]]:
        """The two ends of every link of this entry, in the order written."""
        if self.between is not None:
            return [self.between]
        members = getattr(self, self.shape or "mesh")
        names = datacenters if members == "all" else members or []
        if self.shape == "ring":
            return list(zip(names, names[1:] + names[:1], strict=True)) if len(names) > 2 else []
        return (
            [(names[0], name) for name in names[1:]]
            if self.shape == "star"
            else list(combinations(names, 2))
        )


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
    conduit: str | None = None  # what it shares with other links


class _Written(NamedTuple):
    ends: tuple[str, str]
    entry: int  # index of the entry in `wan` that an error about the link names
    settings: LinkSettings
    refined: bool


def expand(
    wan: list[Wan], defaults: LinkSettings | None, locations: Mapping[str, Location | None]
) -> tuple[list[Link], list[Problem]]:
    """The links that `wan` stands for, and what is wrong with it. `locations` has every
    datacenter's name.
    """
    problems = [
        problem
        for index, entry in enumerate(wan)
        for problem in _entry_problems(index, entry, locations)
    ]
    if defaults is not None:
        problems += _direction_problems(("defaults", "wan"), defaults, ())
    if problems:
        return [], problems
    written, problems = _written_links(wan, defaults, list(locations))
    links: dict[str, Link] = {}
    for ends, index, settings, _ in written:
        key = "-".join(ends)
        found = _link_problems(index, ends, settings, locations)
        if key in links:
            found.append(
                Problem(("wan", index), f"two links have the key {key!r}", "rename a datacenter")
            )
        problems += found
        if not found:
            ways = [_direction(settings, *way, locations) for way in (ends, ends[::-1])]
            links[key] = Link(key, ways[0], ways[1], settings.shares)
    first = {
        problem.loc: problem for problem in reversed(problems)
    }  # one for the links of a shorthand
    return list(links.values()), list(reversed(first.values()))


def _entry_problems(index: int, entry: Wan, known: Mapping[str, Any]) -> list[Problem]:
    if entry.shape is None:
        return [Problem(("wan", index), "a link needs exactly one of between, mesh, ring and star")]
    members = getattr(entry, entry.shape)
    loc = ("wan", index, entry.shape)
    names = list(known) if members == "all" else list(members)
    problems = [
        Problem(loc, f"there is no datacenter {name!r}", suggest(name, known, "datacenters"))
        for name in dict.fromkeys(names)
        if name not in known
    ]
    if len(set(names)) < len(names):
        problems.append(Problem(loc, f"the same datacenter is named twice: {', '.join(names)}"))
    least = 3 if entry.shape == "ring" else 2
    if len(names) < least:
        problems.append(Problem(loc, f"a {entry.shape} needs at least {least} datacenters"))
    ends = entry.between or ()
    return problems + _direction_problems(("wan", index), entry, ends)


def _direction_problems(
    loc: tuple[str | int, ...], settings: LinkSettings, ends: tuple[str, ...]
) -> list[Problem]:
    """Per-direction values must name the two directions of a link written with `between`."""
    allowed = [ARROW.join(ends), ARROW.join(ends[::-1])] if ends else []
    problems = []
    for name in LinkSettings.model_fields:
        value = getattr(settings, name)
        if not is_per_direction(value):
            continue
        if not ends:
            problems.append(
                Problem((*loc, name), "values per direction need an entry with between")
            )
        problems += [
            Problem(
                (*loc, name, key),
                f"{key!r} is no direction of this link",
                f"they are {' and '.join(allowed)}",
            )
            for key in value
            if ends and key not in allowed
        ]
    return problems


def _written_links(
    wan: list[Wan], defaults: LinkSettings | None, datacenters: list[str]
) -> tuple[list[_Written], list[Problem]]:
    """All links with their settings: defaults, then the shorthand, then the `between` entry."""
    found: dict[frozenset[str], _Written] = {}
    problems = []
    base = overlay(LinkSettings(), defaults)
    for index, entry in sorted(enumerate(wan), key=lambda item: item[1].shape == "between"):
        for ends in entry.pairs(datacenters):
            old = found.get(frozenset(ends))
            if old is not None and (old.refined or entry.between is None):
                what = f"a second link between {ends[0]} and {ends[1]}"
                problems.append(
                    Problem(("wan", index), what, "datacenters have at most one link between them")
                )
                continue
            settings = _refined(old.settings if old else base, entry, ends)
            found[frozenset(ends)] = _Written(ends, index, settings, entry.between is not None)
    return list(found.values()), problems


def _refined(base: LinkSettings, entry: Wan, ends: tuple[str, str]) -> LinkSettings:
    """`base` with what `entry` sets; where it sets one direction of a link, the other one keeps the
    value of `base`.
    """
    refined = overlay(base, entry)
    ways = (ARROW.join(ends), ARROW.join(ends[::-1]))
    both = {
        name: dict.fromkeys(ways, getattr(base, name)) | value
        for name in LinkSettings.model_fields
        if is_per_direction(value := getattr(entry, name))
    }
    return refined.model_copy(update=both)


def _link_problems(
    index: int,
    ends: tuple[str, str],
    settings: LinkSettings,
    locations: Mapping[str, Location | None],
) -> list[Problem]:
    problems = []
    for way in (ends, ends[::-1]):
        name = ARROW.join(way)
        if toward(settings.rate, name) is None:
            problems.append(
                Problem(
                    ("wan", index, "rate"), f"{name} has no rate", "write one, such as 10 Gbit/s"
                )
            )
        delay = toward(settings.delay, name)
        missing = [end for end in sorted(ends) if locations[end] is None]
        if delay is None and missing:
            remedy = f"write a delay, or the location of {' and '.join(missing)}"
            problems.append(Problem(("wan", index, "delay"), f"{name} has no delay", remedy))
        elif delay is not None and toward(settings.jitter, name) > delay:
            problems.append(
                Problem(("wan", index, "jitter"), f"the jitter of {name} exceeds its delay")
            )
        if toward(settings.ecn, name) and toward(settings.discipline, name) == "drop-tail":
            what = f"a drop-tail queue cannot mark packets, and {name} has ecn"
            problems.append(Problem(("wan", index, "ecn"), what, "add discipline: red or fq_codel"))
    return problems


def toward(value: Any, name: str) -> Any:
    """The value for direction `name`."""
    return value[name] if is_per_direction(value) else value


def _direction(
    settings: LinkSettings, source: str, target: str, locations: Mapping[str, Location | None]
) -> LinkDirection:
    values = {
        name: toward(getattr(settings, name), f"{source}{ARROW}{target}")
        for name in LinkSettings.model_fields
        if name not in ("detour", "shares")
    }
    a, b = locations[source], locations[target]
    if values["delay"] is None and a is not None and b is not None:
        values["delay"] = fibre_delay_ns(distance_km(a, b), settings.detour)
    return LinkDirection(source, target, **values)
