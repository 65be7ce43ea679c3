"""What is wrong with the events of a topology, beyond what each of their values shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from testbed.core.units import format_time
from testbed.spec.base import Problem, suggest
from testbed.spec.events import Event, listed
from testbed.spec.timeline import HostTurn, host_turns, link_states, transfer_pairs
from testbed.spec.wan import Link, is_per_direction

MOST_CHANGES = 10_000  # of a run
Loc = tuple[str | int, ...]
Hosts = Mapping[str, Sequence[str]]


def event_problems(events: Sequence[Event], links: Sequence[Link], hosts: Hosts) -> list[Problem]:
    """What is wrong with `events` of a topology with these links, and these hosts of each
    datacenter.
    """
    problems: list[Problem] = []
    for index, event in enumerate(events):
        problems += _of_one(("events", index), event, links, hosts)
    changes = sum(2 * (event.times or 1) * len(event.rows) for event in events)
    if changes > MOST_CHANGES:
        problems.append(
            Problem(
                ("events",), f"these are up to {changes} changes; a run has at most {MOST_CHANGES}"
            )
        )
    return problems or [
        *_state_problems(events, links, list(hosts)),
        *_turn_problems(host_turns(events, hosts)),
    ]


def _of_one(loc: Loc, event: Event, links: Sequence[Link], hosts: Hosts) -> Iterator[Problem]:
    if sum(about is not None for about in (event.links, event.hosts, event.transfer)) != 1:
        remedy = "write one of links, hosts and transfer, and two events for two of them"
        yield Problem(loc, "an event is about links, hosts or a transfer", remedy)
    elif event.hosts is not None:
        yield from _host_problems(loc, event, hosts)
    elif event.transfer is not None:
        yield from _transfer_problems(loc, event, hosts)
    else:
        yield from _link_problems(loc, event, links, list(hosts))
    if (event.every is None) != (event.times is None):
        yield Problem(
            (*loc, "every"),
            "every and times go together",
            "write for example every: 10 s, times: 5",
        )
    lasts = event.trace is None and event.transfer is None
    if event.every is not None and event.duration is None and lasts:
        yield Problem(
            (*loc, "every"), "an event to the end of the run cannot occur again", "write a duration"
        )
    if event.every is not None and event.duration is not None and event.duration > event.every:
        yield Problem((*loc, "duration"), "an occurrence lasts longer than it is to the next one")
    if event.duration == 0:
        yield Problem((*loc, "duration"), "a duration of 0 changes nothing")


def _host_problems(loc: Loc, event: Event, hosts: Hosts) -> Iterator[Problem]:
    known = [*(host for mine in hosts.values() for host in mine), *hosts]
    for name in listed(event.hosts):
        if name != "all" and name not in known:
            yield Problem(
                (*loc, "hosts"), f"there is no host or datacenter {name!r}", suggest(name, known)
            )
    if event.crash is None:
        yield Problem(
            (*loc, "hosts"),
            "this event does nothing to its hosts",
            "write crash: ranks or crash: host",
        )
    if event.values or event.down or event.trace:
        yield Problem(loc, "settings of links need links", "write two events")


def _transfer_problems(loc: Loc, event: Event, hosts: Hosts) -> Iterator[Problem]:
    assert event.transfer is not None
    known = [*(host for mine in hosts.values() for host in mine), *hosts]
    ends = {"from": event.transfer.source, "to": event.transfer.target}
    for key, name in ends.items():
        if name not in known:
            yield Problem(
                (*loc, "transfer", key),
                f"there is no host or datacenter {name!r}",
                suggest(name, known),
            )
    if any(source == target for source, target in transfer_pairs(event, hosts)):
        yield Problem((*loc, "transfer"), "a host would send to itself")
    if event.transfer.size < len(transfer_pairs(event, hosts)):
        yield Problem((*loc, "transfer", "size"), "this is less than a byte for each sender")
    if event.values or event.down or event.trace or event.crash or event.duration is not None:
        yield Problem(
            loc,
            "a transfer has no other settings, and takes as long as it takes",
            "write two events",
        )


def _link_problems(
    loc: Loc, event: Event, links: Sequence[Link], datacenters: Sequence[str]
) -> Iterator[Problem]:
    conduits = {link.conduit for link in links if link.conduit}
    known = [*(link.key for link in links), *sorted(conduits), *datacenters]
    for name in listed(event.links):
        if known.count(name) > 1:
            yield Problem(
                (*loc, "links"),
                f"{name!r} is the name of two things",
                "rename the conduit or a datacenter",
            )
        elif name != "all" and name not in known:
            yield Problem(
                (*loc, "links"),
                f"there is no link, conduit or datacenter {name!r}",
                suggest(name, known),
            )
    if not links:
        yield Problem((*loc, "links"), "this topology has no WAN links")
    if event.crash is not None:
        yield Problem(
            (*loc, "crash"), "hosts crash, not links", "write hosts instead of links, or down: true"
        )
    own = event.values
    if event.trace is not None and (own or event.down):
        yield Problem(
            (*loc, "trace"),
            "an event has a trace or settings of its own, not both",
            "write two events",
        )
    elif event.trace is None and not own and not event.down and event.crash is None:
        yield Problem(
            loc,
            "this event changes nothing",
            "write down: true, rate, delay, loss or another setting",
        )
    yield from _direction_problems(loc, event, links)


def _direction_problems(loc: Loc, event: Event, links: Sequence[Link]) -> Iterator[Problem]:
    """Values per direction must name the directions of the one link that the event names."""
    named = [link for link in links if [link.key] == listed(event.links)]
    allowed = [way.name for link in named for way in (link.forward, link.backward)]
    for name, value in event.values.items():
        if is_per_direction(value) and not named:
            yield Problem(
                (*loc, name), "values per direction need an event of one link, by its name"
            )
        elif is_per_direction(value):
            for key in value:
                if key not in allowed:
                    remedy = f"they are {' and '.join(allowed)}"
                    yield Problem(
                        (*loc, name, key), f"{key!r} is no direction of this link", remedy
                    )


def _state_problems(
    events: Sequence[Event], links: Sequence[Link], datacenters: Sequence[str]
) -> list[Problem]:
    for state in link_states(events, links, datacenters):
        for way in (way for link in state.links.values() for way in (link.forward, link.backward)):
            if way.jitter > way.delay:
                what = f"at {format_time(state.at_ns)} the jitter of {way.name} exceeds its delay"
                return [Problem(("events",), what)]
    return []


def _turn_problems(turns: Sequence[HostTurn]) -> list[Problem]:
    crashed: set[str] = set()
    moments = Counter((turn.at_ns, turn.host) for turn in turns)
    for turn in turns:
        if moments[turn.at_ns, turn.host] > 1:
            what = f"at {format_time(turn.at_ns)} two things happen to {turn.host} at once"
            return [Problem(("events",), what, "let one of them be later")]
        if turn.crash is None:
            crashed.discard(turn.host)
        elif turn.host in crashed:
            what = f"at {format_time(turn.at_ns)} {turn.host} crashes, which has crashed before and is not back"
            return [Problem(("events",), what)]
        else:
            crashed.add(turn.host)
    return []
