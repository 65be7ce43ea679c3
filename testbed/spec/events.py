"""Events: how WAN links change while a run goes on.

    events:
      - {at: 5 s, links: iowa-ohio, delay: 30 ms}                                # from then on
      - {at: 8 s, duration: 2 s, links: all, loss: 1 %}                          # and then as before
      - {at: 10 s, duration: 500 ms, every: 5 s, times: 4, links: fibre-1, down: true}
      - {at: 20 s, links: iowa-ohio, trace: measured.csv}

An event is in force from `at` on, for `duration` or to the end of the run. What is in force at a time is laid over the
links as the topology has them, in the order written; a link is down while any event says so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, ValidationInfo

from testbed.errors import Place
from testbed.spec.link import Link, Loss, PerDirection, QueueField, is_per_direction, toward
from testbed.spec.model import Count, Flag, Problem, Strict, input_error, suggest
from testbed.units import Probability, Rate, Time, UnitError, format_time, parse_time

MOST_CHANGES = 10_000  # of a run
TIME_COLUMN = "time"


class EventSettings(Strict):
    """What is different on a WAN link while an event is in force."""

    down: Flag = Field(False, description="whether what is sent into the link is lost, both ways", examples=[True])
    rate: PerDirection[Rate] | None = Field(None, description="of the bottleneck", examples=["1 Gbit/s"])
    delay: PerDirection[Time] | None = Field(None, description="of the fibre, one way", examples=["30 ms"])
    jitter: PerDirection[Time] | None = Field(None, description="spread of the delay", examples=["1 ms"])
    loss: PerDirection[Loss] | None = Field(None, description="chance of each packet; or in bursts", examples=["1 %"])
    duplicate: PerDirection[Probability] | None = Field(
        None, description="chance of each packet to arrive twice", examples=["0.1 %"]
    )
    corrupt: PerDirection[Probability] | None = Field(
        None, description="chance of each packet to have one bit flipped", examples=["0.1 %"]
    )
    queue: PerDirection[QueueField] | None = Field(
        None, description="buffer of the bottleneck; one in bdp follows rate and delay", examples=["4 MiB"]
    )

    @property
    def values(self) -> dict[str, Any]:
        """What is set of the links' own settings, by the names of `testbed.spec.link.LinkDirection`."""
        named = {name: getattr(self, name) for name in EventSettings.model_fields if name != "down"}
        return {name: value for name, value in named.items() if value is not None}


class TraceRow(NamedTuple):
    """A line of a trace: from `time_ns` after the event's beginning until the next line."""

    time_ns: int
    settings: EventSettings


def read_trace(path: Path) -> list[TraceRow]:
    """The lines of a CSV file whose head names `time` and settings of links: ``time,rate,delay``, ``0 s,1 Gbit/s,``.

    An empty cell leaves the setting as it is without the event.

    Raises:
        UnitError: it cannot be read, or is not such a table; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if any(cell.strip() for cell in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UnitError(f"the trace {path} cannot be read: {why}") from error
    if len(lines) < 2:
        raise UnitError(f"the trace {path} has no line below its head", "write a head such as time,rate,delay")
    head = [cell.strip() for cell in lines[0]]
    known = [TIME_COLUMN, *EventSettings.model_fields]
    for name in head:
        if name not in known:
            raise UnitError(f"the trace {path} has an unknown column {name!r}", suggest(name, known, "the columns"))
    if TIME_COLUMN not in head or len(head) < 2 or len(set(head)) < len(head):
        raise UnitError(f"the head of the trace {path} does not name time and settings, each once")
    rows = [_trace_row(path, number, head, cells) for number, cells in enumerate(lines[1:], 2)]
    for number, (row, after) in enumerate(pairwise(rows), 3):
        if after.time_ns <= row.time_ns:
            raise UnitError(f"line {number} of the trace {path} is not later than the one before")
    return rows


def _trace_row(path: Path, number: int, head: list[str], cells: list[str]) -> TraceRow:
    if len(cells) != len(head):
        raise UnitError(f"line {number} of the trace {path} has {len(cells)} cells, its head has {len(head)}")
    written: dict[str, Any] = {name: cell.strip() for name, cell in zip(head, cells, strict=True) if cell.strip()}
    if "down" in written:
        written["down"] = {"true": True, "false": False}.get(written["down"].lower(), written["down"])
    try:
        time_ns = parse_time(written.pop(TIME_COLUMN, ""))
        return TraceRow(time_ns, EventSettings.model_validate(written))
    except UnitError as error:
        raise UnitError(f"line {number} of the trace {path}: {error.what}", error.remedy) from error
    except ValidationError as error:
        found = input_error(error, EventSettings, lambda loc: Place(key=".".join(map(str, loc))))
        raise UnitError(f"line {number} of the trace {path}: {found.what}", found.remedy) from error


def _found_trace(value: str, info: ValidationInfo) -> str:
    path = Path((info.context or {}).get("folder", "")) / value
    read_trace(path)
    return str(path.resolve())


class Event(EventSettings):
    """A change of WAN links at a time of the run; what is not written stays as it is."""

    at: Time = Field(description="when, from the first step or operation of rank 0 on", examples=["5 s"])
    duration: Time | None = Field(
        None, description="for how long; left out, to the end of the run", examples=["500 ms"]
    )
    every: Time | None = Field(None, description="from one occurrence to the next", examples=["10 s"])
    times: Count | None = Field(None, description="how many occurrences, with `every`", examples=[5])
    links: Annotated[
        Annotated[Literal["all"], Tag("(all)")] | Annotated[str, Tag("(one)")] | Annotated[list[str], Tag("(some)")],
        Discriminator(lambda value: "(all)" if value == "all" else "(some)" if isinstance(value, list) else "(one)"),
    ] = Field(
        description="all, or names: of links (iowa-ohio), of conduits (`shares`), or of datacenters, for all links of "
        "theirs", examples=["iowa-ohio"],
    )  # fmt: skip
    trace: Annotated[str, AfterValidator(_found_trace)] | None = Field(
        None, description="CSV file of what changes when: time,rate,delay,...; times count from `at` on",
        examples=["measured.csv"],
    )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """What `links` names."""
        return list(self.links) if isinstance(self.links, list) else [self.links]

    @property
    def rows(self) -> list[TraceRow]:
        """What is different, and from when after the beginning of an occurrence: the trace, or the event's own."""
        return [TraceRow(0, self)] if self.trace is None else read_trace(Path(self.trace))

    def windows(self, keys: Sequence[str]) -> Iterator[Window]:
        """When which settings are in force on the links `keys`."""
        trace = self.rows
        for number in range(self.times or 1):
            begin = self.at + number * (self.every or 0)
            over = None if self.duration is None else begin + self.duration
            rows = [(begin + row.time_ns, row.settings) for row in trace]
            for (first, settings), after in zip(rows, [*(row[0] for row in rows[1:]), None], strict=True):
                ends = [end for end in (after, over) if end is not None]
                if over is None or first < over:
                    yield Window(first, min(ends, default=None), tuple(keys), settings)


@dataclass(frozen=True)
class Window:
    """`settings` hold on the links `keys` from `begin_ns` to before `end_ns` (None: for ever)."""

    begin_ns: int
    end_ns: int | None
    keys: tuple[str, ...]
    settings: EventSettings


@dataclass(frozen=True)
class LinkState:
    """From `at_ns` on: the links that differ from the topology's, and those that are down."""

    at_ns: int
    links: Mapping[str, Link]
    down: frozenset[str]


def link_states(events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]) -> list[LinkState]:
    """The states that links go through, by time; the names in `events` are known."""
    by_key = {link.key: link for link in links}
    windows = [w for event in events for w in event.windows(_keys(event, links, datacenters))]
    begins, ends = _by_time(window.begin_ns for window in windows), _by_time(window.end_ns for window in windows)
    active: set[int] = set()
    states: list[LinkState] = []
    for time in sorted(begins.keys() | ends.keys()):
        active = (active | begins.get(time, set())) - ends.get(time, set())
        changed: dict[str, Link] = {}
        down: set[str] = set()
        for window in (windows[number] for number in sorted(active)):
            down.update(window.keys if window.settings.down else ())
            for key in window.keys if window.settings.values else ():
                changed[key] = _laid_over(changed.get(key, by_key[key]), window.settings.values)
        states.append(LinkState(time, changed, frozenset(down)))
    return states


def _by_time(times: Iterable[int | None]) -> dict[int, set[int]]:
    """The numbers of those that have a time, by it."""
    found: dict[int, set[int]] = {}
    for number, time in enumerate(times):
        if time is not None:
            found.setdefault(time, set()).add(number)
    return found


def _laid_over(link: Link, values: Mapping[str, Any]) -> Link:
    ways = []
    for way in (link.forward, link.backward):
        mine = {name: value for name, value in values.items() if not is_per_direction(value) or way.name in value}
        ways.append(replace(way, **{name: toward(value, way.name) for name, value in mine.items()}))
    return replace(link, forward=ways[0], backward=ways[1])


def _keys(event: Event, links: Sequence[Link], datacenters: Sequence[str]) -> list[str]:
    """The keys of the links that an event is about, in the order of the links."""
    names = set(event.names)
    if event.links == "all":
        return [link.key for link in links]
    sites = names & set(datacenters)
    return [
        link.key
        for link in links
        if {link.key, link.conduit} & names or {link.forward.source, link.forward.target} & sites
    ]


def event_problems(events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]) -> list[Problem]:
    """What is wrong with `events` of a topology with these links and datacenters."""
    keys, conduits = [link.key for link in links], {link.conduit for link in links if link.conduit}
    known = [*keys, *sorted(conduits), *datacenters]
    problems = [found for index, event in enumerate(events) for found in _own_problems(index, event, links, known)]
    changes = sum(2 * (event.times or 1) * len(event.rows) for event in events)
    if changes > MOST_CHANGES:
        problems.append(Problem(("events",), f"these are up to {changes} changes; a run has at most {MOST_CHANGES}"))
    if problems:
        return problems
    for state in link_states(events, links, datacenters):
        for way in (way for link in state.links.values() for way in (link.forward, link.backward)):
            if way.jitter > way.delay:
                what = f"at {format_time(state.at_ns)} the jitter of {way.name} exceeds its delay"
                return [Problem(("events",), what)]
    return []


def _own_problems(index: int, event: Event, links: Sequence[Link], known: Sequence[str]) -> Iterator[Problem]:
    loc = ("events", index)
    for name in event.names if event.links != "all" else ():
        if known.count(name) > 1:
            yield Problem((*loc, "links"), f"{name!r} is the name of two things", "rename the conduit or a datacenter")
        elif name not in known:
            yield Problem((*loc, "links"), f"there is no link, conduit or datacenter {name!r}", suggest(name, known))
    if not links:
        yield Problem((*loc, "links"), "this topology has no WAN links")
    own = event.values
    if event.trace is not None and (own or event.down):
        yield Problem((*loc, "trace"), "an event has a trace or settings of its own, not both", "write two events")
    elif event.trace is None and not own and not event.down:
        yield Problem(loc, "this event changes nothing", "write down: true, rate, delay, loss or another setting")
    if (event.every is None) != (event.times is None):
        yield Problem((*loc, "every"), "every and times go together", "write for example every: 10 s, times: 5")
    if event.every is not None and event.duration is None and event.trace is None:
        yield Problem((*loc, "every"), "an event to the end of the run cannot occur again", "write a duration")
    if event.every is not None and event.duration is not None and event.duration > event.every:
        yield Problem((*loc, "duration"), "an occurrence lasts longer than it is to the next one")
    if event.duration == 0:
        yield Problem((*loc, "duration"), "a duration of 0 changes nothing")
    yield from _direction_problems(loc, event, links)


def _direction_problems(loc: tuple[str | int, ...], event: Event, links: Sequence[Link]) -> Iterator[Problem]:
    """Values per direction must name the directions of the one link that the event names."""
    named = [link for link in links if [link.key] == event.names]
    allowed = [way.name for link in named for way in (link.forward, link.backward)]
    for name, value in event.values.items():
        if is_per_direction(value) and not named:
            yield Problem((*loc, name), "values per direction need an event of one link, by its name")
        elif is_per_direction(value):
            for key in value:
                if key not in allowed:
                    remedy = f"they are {' and '.join(allowed)}"
                    yield Problem((*loc, name, key), f"{key!r} is no direction of this link", remedy)


def outages(states: Sequence[LinkState], key: str) -> list[tuple[int, int | None]]:
    """From when to when (None: for ever) the link `key` is down."""
    found: list[tuple[int, int | None]] = []
    for state in states:
        is_down = bool(found) and found[-1][1] is None
        if key in state.down and not is_down:
            found.append((state.at_ns, None))
        elif key not in state.down and is_down:
            found[-1] = (found[-1][0], state.at_ns)
    return found
