"""Checks of a topology's events for consistency with links, hosts and other events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from testbed.core.suggestions import suggest
from testbed.core.units import format_time
from testbed.spec.base import Mistake
from testbed.spec.events import Event, Transfer, listed
from testbed.spec.timeline import HostTurn, host_turns, link_names, link_states, transfer_pairs
from testbed.spec.trace_files import MOST_CHANGES
from testbed.spec.wan import Link, is_per_direction
from testbed.spec.yaml_reader import Loc

Hosts = Mapping[str, Sequence[str]]  # names of the hosts of each datacenter


class _Rule(NamedTuple):
    """A row of a table of rules; the problem exists if `broken` is true."""

    broken: bool
    problem: Mistake


def _broken(rules: Iterable[_Rule]) -> Iterator[Mistake]:
    for rule in rules:
        if rule.broken:
            yield rule.problem


def event_problems(events: Sequence[Event], links: Sequence[Link], hosts: Hosts) -> list[Mistake]:
    """Return the problems of a topology's events.

    Args:
        events: The events, each one valid.
        links: All WAN links of the topology.
        hosts: The names of the hosts of each datacenter.

    Returns:
        Problems of single events; without any, problems of their combination.
    """
    problems: list[Mistake] = []
    for index, event in enumerate(events):
        problems += _single_event_problems(("events", index), event, links, hosts)

    changes = 0
    for event in events:
        occurrences = event.times or 1
        changes += occurrences * _changes_of_occurrence(event)

    if changes > MOST_CHANGES:
        what = f"too many changes: {changes} (at most {MOST_CHANGES} in a run)"
        problems.append(Mistake(("events",), what))

    if problems:
        return problems
    return [
        *_jitter_problems(events, links, list(hosts)),
        *_turn_problems(host_turns(events, hosts)),
    ]


def _changes_of_occurrence(event: Event) -> int:
    """Return how many changes an occurrence makes: one for each row, and one at its end."""
    return len(event.rows) + (event.duration is not None)


def _single_event_problems(
    loc: Loc, event: Event, links: Sequence[Link], hosts: Hosts
) -> Iterator[Mistake]:
    subjects = [event.links, event.hosts, event.transfer]
    named_subjects = len(subjects) - subjects.count(None)
    if named_subjects != 1:
        what = "an event needs exactly one of links, hosts and transfer"
        remedy = "split the event into one for each"
        yield Mistake(loc, what, remedy)
    elif event.hosts is not None:
        yield from _host_problems(loc, event, hosts)
    elif event.transfer is not None:
        yield from _transfer_problems(loc, event, event.transfer, hosts)
    else:
        yield from _link_problems(loc, event, links, list(hosts))

    yield from _repetition_problems(loc, event)


def _repetition_problems(loc: Loc, event: Event) -> Iterator[Mistake]:
    """Yield the problems with `every`, `times` and `duration`."""
    repeats = event.every is not None
    ends_by_itself = event.trace is not None or event.transfer is not None
    is_endless = event.duration is None and not ends_by_itself
    overlaps = False
    if event.every is not None and event.duration is not None:
        overlaps = event.duration > event.every

    yield from _broken(
        [
            _Rule(
                repeats != (event.times is not None),
                Mistake(
                    (*loc, "every"),
                    "every and times require each other",
                    "such as every: 10 s, times: 5",
                ),
            ),
            _Rule(
                repeats and is_endless,
                Mistake(
                    (*loc, "every"),
                    "an event without a duration cannot repeat",
                    "add a duration",
                ),
            ),
            _Rule(
                overlaps,
                Mistake(
                    (*loc, "duration"),
                    "the duration is longer than the interval between occurrences",
                ),
            ),
            _Rule(
                event.duration == 0,
                Mistake((*loc, "duration"), "the duration must be greater than 0"),
            ),
        ]
    )


def _host_problems(loc: Loc, event: Event, hosts: Hosts) -> Iterator[Mistake]:
    known = _host_and_site_names(hosts)
    for name in listed(event.hosts):
        if name != "all" and name not in known:
            yield _unknown_host((*loc, "hosts"), name, known)

    yield from _broken(
        [
            _Rule(
                event.crash is None,
                Mistake(
                    (*loc, "hosts"),
                    "an event with hosts needs crash",
                    "add crash: ranks or crash: host",
                ),
            ),
            _Rule(
                _changes_links(event),
                Mistake(loc, "link settings require links", "split the event in two"),
            ),
        ]
    )


def _host_and_site_names(hosts: Hosts) -> list[str]:
    names: list[str] = []
    for host_names in hosts.values():
        names += host_names
    return [*names, *hosts]


def _unknown_host(loc: Loc, name: str, known: Sequence[str]) -> Mistake:
    return Mistake(loc, f"unknown host or datacenter {name!r}", suggest(name, known))


def _changes_links(event: Event) -> bool:
    return bool(event.values) or event.down or event.trace is not None


def _transfer_problems(
    loc: Loc, event: Event, transfer: Transfer, hosts: Hosts
) -> Iterator[Mistake]:
    known = _host_and_site_names(hosts)
    ends = {"from": transfer.source, "to": transfer.target}
    for key, name in ends.items():
        if name not in known:
            yield _unknown_host((*loc, "transfer", key), name, known)

    pairs = transfer_pairs(event, hosts)
    has_other_settings = (
        _changes_links(event) or event.crash is not None or event.duration is not None
    )
    yield from _broken(
        [
            _Rule(
                any(source == target for source, target in pairs),
                Mistake((*loc, "transfer"), "source and target are the same host"),
            ),
            _Rule(
                transfer.size < len(pairs),
                Mistake(
                    (*loc, "transfer", "size"), "the size is less than one byte for each sender"
                ),
            ),
            _Rule(
                has_other_settings,
                Mistake(
                    loc,
                    "a transfer takes no duration and no link settings",
                    "split the event in two",
                ),
            ),
        ]
    )


def _link_problems(
    loc: Loc, event: Event, links: Sequence[Link], datacenters: Sequence[str]
) -> Iterator[Mistake]:
    names = link_names(event, links, datacenters)
    yield from _link_name_problems((*loc, "links"), names, links, datacenters)

    has_settings = bool(event.values) or event.down
    changes_nothing = not _changes_links(event) and event.crash is None
    yield from _broken(
        [
            _Rule(not links, Mistake((*loc, "links"), "this topology has no WAN links")),
            _Rule(
                event.crash is not None,
                Mistake(
                    (*loc, "crash"),
                    "crash applies only to hosts",
                    "use hosts instead of links, or down: true",
                ),
            ),
            _Rule(
                event.trace is not None and has_settings,
                Mistake(
                    (*loc, "trace"),
                    "an event cannot have both a trace and link settings",
                    "split the event in two",
                ),
            ),
            _Rule(
                changes_nothing,
                Mistake(
                    loc,
                    "the event changes nothing",
                    "add down: true, rate, delay, loss or another setting",
                ),
            ),
        ]
    )
    yield from _direction_problems(loc, event, links, names)


def _link_name_problems(
    loc: Loc, names: Sequence[str], links: Sequence[Link], datacenters: Sequence[str]
) -> Iterator[Mistake]:
    keys = [link.key for link in links]
    conduits = {link.conduit for link in links if link.conduit}
    known = [*keys, *sorted(conduits), *datacenters]
    for name in names:
        if known.count(name) > 1:
            what = f"the name {name!r} is ambiguous"
            yield Mistake(loc, what, "rename the conduit or a datacenter")
        elif name != "all" and name not in known:
            what = f"unknown link, conduit or datacenter {name!r}"
            yield Mistake(loc, what, suggest(name, known))


def _direction_problems(
    loc: Loc, event: Event, links: Sequence[Link], names: Sequence[str]
) -> Iterator[Mistake]:
    """Yield the values per direction that do not name a direction of the event's only link."""
    allowed: list[str] = []
    for link in links:
        if names == [link.key]:
            allowed += [link.forward.name, link.backward.name]

    for name, value in event.values.items():
        if not is_per_direction(value):
            continue
        if not allowed:
            what = "values per direction require an event with a single named link"
            yield Mistake((*loc, name), what)
            continue

        for direction in value:
            if direction not in allowed:
                what = f"{direction!r} is not a direction of this link"
                remedy = f"directions: {' and '.join(allowed)}"
                yield Mistake((*loc, name, direction), what, remedy)


def _jitter_problems(
    events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]
) -> list[Mistake]:
    """Return the first time at which the events make a link's jitter exceed its delay."""
    for state in link_states(events, links, datacenters):
        for link in state.links.values():
            for direction in (link.forward, link.backward):
                if direction.jitter > direction.delay:
                    time = format_time(state.at_ns)
                    what = f"at {time} the jitter of {direction.name} exceeds its delay"
                    return [Mistake(("events",), what)]

    return []


def _turn_problems(turns: Sequence[HostTurn]) -> list[Mistake]:
    """Return the first crash or return of a host that contradicts earlier ones."""
    crashed: set[str] = set()
    turns_at_once = Counter((turn.at_ns, turn.host) for turn in turns)
    for turn in turns:
        time = format_time(turn.at_ns)
        if turns_at_once[turn.at_ns, turn.host] > 1:
            what = f"two events change {turn.host} at {time}"
            return [Mistake(("events",), what, "move one of them to a later time")]

        if turn.crash is None:
            crashed.discard(turn.host)
        elif turn.host in crashed:
            what = f"{turn.host} crashes at {time}, but is still down from an earlier crash"
            return [Mistake(("events",), what)]
        else:
            crashed.add(turn.host)

    return []
