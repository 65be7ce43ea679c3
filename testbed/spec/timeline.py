"""What the events of a topology come to, by time: the states of links, and the turns of hosts and
transfers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, NamedTuple

from testbed.spec.events import Crash, Event, EventSettings, listed
from testbed.spec.wan import Link, is_per_direction, toward


@dataclass(frozen=True)
class Window:
    """`settings` hold on the links `keys` from `begin_ns` to before `end_ns` (None: for ever)."""

    begin_ns: int
    end_ns: int | None
    keys: tuple[str, ...]
    settings: EventSettings


def _windows(event: Event, keys: Sequence[str]) -> Iterator[Window]:
    """When which settings of `event` are in force on the links `keys`."""
    trace = event.rows if keys else []
    for begin, over in event.occurrences():
        rows = [(begin + row.time_ns, row.settings) for row in trace]
        for (first, settings), after in zip(
            rows, [*(row[0] for row in rows[1:]), None][: len(rows)], strict=True
        ):
            ends = [end for end in (after, over) if end is not None]
            if over is None or first < over:
                yield Window(first, min(ends, default=None), tuple(keys), settings)


@dataclass(frozen=True)
class LinkState:
    """From `at_ns` on: the links that differ from the topology's, and those that are down."""

    at_ns: int
    links: Mapping[str, Link]
    down: frozenset[str]


def link_states(
    events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]
) -> list[LinkState]:
    """The states that links go through, by time; the names in `events` are known."""
    by_key = {link.key: link for link in links}
    windows = [w for event in events for w in _windows(event, _keys(event, links, datacenters))]
    begins, ends = (
        _by_time(window.begin_ns for window in windows),
        _by_time(window.end_ns for window in windows),
    )
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
        mine = {
            name: value
            for name, value in values.items()
            if not is_per_direction(value) or way.name in value
        }
        ways.append(replace(way, **{name: toward(value, way.name) for name, value in mine.items()}))
    return replace(link, forward=ways[0], backward=ways[1])


def _keys(event: Event, links: Sequence[Link], datacenters: Sequence[str]) -> list[str]:
    """The keys of the links that an event is about, in the order of the links."""
    names = set(listed(event.links))
    if "all" in names:
        return [link.key for link in links]
    sites = names & set(datacenters)
    return [
        link.key
        for link in links
        if {link.key, link.conduit} & names or {link.forward.source, link.forward.target} & sites
    ]


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


class HostTurn(NamedTuple):
    """At `at_ns` the host `host` crashes, or is back (`crash` None)."""

    at_ns: int
    host: str
    crash: Crash | None


def host_turns(events: Sequence[Event], hosts: Mapping[str, Sequence[str]]) -> list[HostTurn]:
    """The turns of hosts, by time; of one time, crashes come last. `hosts` are the names of each
    datacenter's.
    """
    turns = []
    for event in events:
        for host in crashing(event, hosts):
            for begin, over in event.occurrences():
                turns.append(HostTurn(begin, host, event.crash))
                turns += [] if over is None else [HostTurn(over, host, None)]
    return sorted(turns, key=lambda turn: (turn.at_ns, turn.crash is not None))


class TransferTurn(NamedTuple):
    """At `at_ns` the host `source` begins to send `bytes` to `target`, at most at `pace_bps`."""

    at_ns: int
    source: str
    target: str
    bytes: int
    connections: int
    pace_bps: int | None


def transfer_turns(
    events: Sequence[Event], hosts: Mapping[str, Sequence[str]]
) -> list[TransferTurn]:
    """Transfers, by time. Where a datacenter sends, each of its hosts sends an equal part, and at
    an equal rate.
    """
    turns = []
    for event in events:
        pairs = transfer_pairs(event, hosts)
        for number, (source, target) in enumerate(pairs):
            made = event.transfer
            assert made is not None
            size = made.size // len(pairs) + (number < made.size % len(pairs))
            rate = None if made.rate is None else max(1, made.rate // len(pairs))
            turns += [
                TransferTurn(at, source, target, size, made.connections, rate)
                for at, _ in event.occurrences()
            ]
    return sorted(turns)


def transfer_pairs(event: Event, hosts: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Who sends to whom; the hosts are known."""
    if event.transfer is None:
        return []
    sources, targets = (
        hosts.get(name, [name]) for name in (event.transfer.source, event.transfer.target)
    )
    return list(zip(sources, cycle(targets), strict=False))


def crashing(event: Event, hosts: Mapping[str, Sequence[str]]) -> list[str]:
    """The hosts that an event is about, in their order."""
    names = set(listed(event.hosts))
    return [host for dc, mine in hosts.items() for host in mine if names & {"all", dc, host}]
