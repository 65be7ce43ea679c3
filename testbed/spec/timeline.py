"""The effects of a topology's events over time: states of links, host crashes, transfers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from typing import Any, NamedTuple

from testbed.spec.events import Crash, Event, EventSettings, listed
from testbed.spec.wan import Link, LinkDirection, is_per_direction, toward

Hosts = Mapping[str, Sequence[str]]  # names of the hosts of each datacenter


@dataclass(frozen=True)
class Window:
    """A period with `settings` on the links `keys`, from `begin_ns` to `end_ns` (None: no end)."""

    begin_ns: int
    end_ns: int | None
    keys: tuple[str, ...]
    settings: EventSettings


def _windows(event: Event, keys: Sequence[str]) -> Iterator[Window]:
    """Return the periods of an event's settings on the links `keys`."""
    if not keys:
        return

    rows = event.rows
    for begin_ns, end_ns in event.occurrences():
        for row, next_row in pairwise([*rows, None]):
            assert row is not None
            row_begins_ns = begin_ns + row.time_ns
            if end_ns is not None and row_begins_ns >= end_ns:
                continue

            row_ends_ns = end_ns
            if next_row is not None:
                next_begins_ns = begin_ns + next_row.time_ns
                row_ends_ns = next_begins_ns if end_ns is None else min(next_begins_ns, end_ns)

            yield Window(
                begin_ns=row_begins_ns,
                end_ns=row_ends_ns,
                keys=tuple(keys),
                settings=row.settings,
            )


@dataclass(frozen=True)
class LinkState:
    """The links that differ from the topology from `at_ns` on, and the links that are down."""

    at_ns: int
    links: Mapping[str, Link]
    down: frozenset[str]


def link_states(
    events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]
) -> list[LinkState]:
    """Return the states of the links, by time.

    Args:
        events: Events that name only links, conduits and datacenters of the topology.
        links: All WAN links of the topology.
        datacenters: The names of all datacenters.
    """
    links_by_key = {link.key: link for link in links}
    windows: list[Window] = []
    for event in events:
        keys = _link_keys(event, links, datacenters)
        windows += _windows(event, keys)

    beginning = _indices_by_time(window.begin_ns for window in windows)
    ending = _indices_by_time(window.end_ns for window in windows)
    active: set[int] = set()
    states: list[LinkState] = []
    for time_ns in sorted(beginning.keys() | ending.keys()):
        active |= beginning.get(time_ns, set())
        active -= ending.get(time_ns, set())
        active_windows = [windows[index] for index in sorted(active)]
        states.append(_state(time_ns, active_windows, links_by_key))

    return states


def _state(time_ns: int, windows: Iterable[Window], links: Mapping[str, Link]) -> LinkState:
    """Return the state while `windows` are in force; settings of later windows win."""
    changed: dict[str, Link] = {}
    down: set[str] = set()
    for window in windows:
        if window.settings.down:
            down.update(window.keys)

        values = window.settings.values
        if not values:
            continue

        for key in window.keys:
            link = changed.get(key, links[key])
            changed[key] = _with_settings(link, values)

    return LinkState(time_ns, changed, frozenset(down))


def _indices_by_time(times: Iterable[int | None]) -> dict[int, set[int]]:
    """Return the indices of `times` by time; None is skipped."""
    indices: dict[int, set[int]] = {}
    for index, time in enumerate(times):
        if time is not None:
            indices.setdefault(time, set()).add(index)

    return indices


def _with_settings(link: Link, values: Mapping[str, Any]) -> Link:
    forward = _direction_with_settings(link.forward, values)
    backward = _direction_with_settings(link.backward, values)
    return replace(link, forward=forward, backward=backward)


def _direction_with_settings(direction: LinkDirection, values: Mapping[str, Any]) -> LinkDirection:
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if not is_per_direction(value) or direction.name in value:
            changes[name] = toward(value, direction.name)

    return replace(direction, **changes)


def link_names(event: Event, links: Sequence[Link], datacenters: Sequence[str]) -> list[str]:
    """Return the names in an event's `links`, with the ends of links in the order of their keys.

    Args:
        event: The event; its names may be unknown.
        links: All WAN links of the topology.
        datacenters: The names of all datacenters.
    """
    known = {*datacenters}
    keys_of_swapped: dict[str, str] = {}
    for link in links:
        known |= {link.key, link.conduit or link.key}
        keys_of_swapped[f"{link.forward.target}-{link.forward.source}"] = link.key

    names: list[str] = []
    for name in listed(event.links):
        names.append(name if name in known else keys_of_swapped.get(name, name))
    return names


def _link_keys(event: Event, links: Sequence[Link], datacenters: Sequence[str]) -> list[str]:
    """Return the keys of an event's links, in the order of the links."""
    names = set(link_names(event, links, datacenters))
    if "all" in names:
        return [link.key for link in links]

    named_sites = names & set(datacenters)
    keys: list[str] = []
    for link in links:
        ends = {link.forward.source, link.forward.target}
        is_named = link.key in names or link.conduit in names
        if is_named or ends & named_sites:
            keys.append(link.key)

    return keys


def outages(states: Sequence[LinkState], key: str) -> list[tuple[int, int | None]]:
    """Return a link's outages as (from ns, to ns); the last end is None if the link stays down.

    Args:
        states: The states of all links, by time.
        key: The key of the link.
    """
    periods: list[tuple[int, int | None]] = []
    down_since: int | None = None
    for state in states:
        is_down = key in state.down
        if is_down and down_since is None:
            down_since = state.at_ns
        elif not is_down and down_since is not None:
            periods.append((down_since, state.at_ns))
            down_since = None

    if down_since is not None:
        periods.append((down_since, None))
    return periods


class HostTurn(NamedTuple):
    """The crash of `host` at `at_ns`, or its return (`crash` None)."""

    at_ns: int
    host: str
    crash: Crash | None


def host_turns(events: Sequence[Event], hosts: Hosts) -> list[HostTurn]:
    """Return the crashes and returns of hosts by time; at equal times, crashes come last.

    Args:
        events: Events that name only hosts and datacenters of the topology.
        hosts: The names of the hosts of each datacenter.
    """
    turns: list[HostTurn] = []
    for event in events:
        for host in crashing(event, hosts):
            for begin_ns, end_ns in event.occurrences():
                turns.append(HostTurn(begin_ns, host, event.crash))
                if end_ns is not None:
                    turns.append(HostTurn(end_ns, host, None))

    return sorted(turns, key=_crashes_last)


def _crashes_last(turn: HostTurn) -> tuple[int, bool]:
    is_crash = turn.crash is not None
    return turn.at_ns, is_crash


class TransferTurn(NamedTuple):
    """A transfer of `bytes` from `source` to `target` from `at_ns` on, at up to `pace_bps`."""

    at_ns: int
    source: str
    target: str
    bytes: int
    connections: int
    pace_bps: int | None


def transfer_turns(events: Sequence[Event], hosts: Hosts) -> list[TransferTurn]:
    """Return the transfers by time.

    If the sender is a datacenter, each of its hosts sends an equal part at an equal rate.

    Args:
        events: Events that name only hosts and datacenters of the topology.
        hosts: The names of the hosts of each datacenter.
    """
    turns: list[TransferTurn] = []
    for event in events:
        turns += _transfer_turns_of(event, hosts)
    return sorted(turns, key=_without_none)


def _without_none(turn: TransferTurn) -> tuple[object, ...]:
    """Return a sort key for a transfer; transfers without a pace come first."""
    return (*turn[:-1], turn.pace_bps or 0)


def _transfer_turns_of(event: Event, hosts: Hosts) -> Iterator[TransferTurn]:
    transfer = event.transfer
    if transfer is None:
        return

    pairs = transfer_pairs(event, hosts)
    share, remainder = divmod(transfer.size, len(pairs))
    pace_bps = None
    if transfer.rate is not None:
        pace_bps = max(1, transfer.rate // len(pairs))

    for index, (source, target) in enumerate(pairs):
        size = share + 1 if index < remainder else share
        for at_ns, _ in event.occurrences():
            yield TransferTurn(
                at_ns=at_ns,
                source=source,
                target=target,
                bytes=size,
                connections=transfer.connections,
                pace_bps=pace_bps,
            )


def transfer_pairs(event: Event, hosts: Hosts) -> list[tuple[str, str]]:
    """Return the sender and the receiver of each part of an event's transfer.

    Args:
        event: An event; one without a transfer has no pairs.
        hosts: The names of the hosts of each datacenter; any other name is a host.
    """
    if event.transfer is None:
        return []

    source = event.transfer.source
    target = event.transfer.target
    sources = hosts.get(source, [source])
    targets = hosts.get(target, [target])
    return list(zip(sources, cycle(targets), strict=False))


def crashing(event: Event, hosts: Hosts) -> list[str]:
    """Return the hosts of an event, in their order.

    Args:
        event: An event; an event without hosts returns an empty list.
        hosts: The names of the hosts of each datacenter.
    """
    names = set(listed(event.hosts))
    named_hosts: list[str] = []
    for datacenter, host_names in hosts.items():
        if "all" in names or datacenter in names:
            named_hosts += host_names
        else:
            named_hosts += [host for host in host_names if host in names]

    return named_hosts
