"""What the events of a topology do, and when: changes of links, and of routes once routers have
found other paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

from testbed.core.units import format_decimal_size, format_probability, format_rate, format_time
from testbed.plan.model import Change, Direction, Host, Network, Route, Transfer, WanLink
from testbed.spec.timeline import HostTurn, LinkState, TransferTurn, outages
from testbed.spec.topology import Topology
from testbed.spec.wan import Link

NEVER = 2**64  # ns
MOST_NAMED = 3  # links or hosts in a clause; of more, their number
Links = Mapping[str, WanLink]


class Part(NamedTuple):
    """Something of a change: a clause for each thing that happens, and fields of `plan.Change`."""

    at_ns: int
    what: tuple[str, ...]
    fields: dict[str, tuple[Any, ...]]


def resolve_changes(
    topology: Topology,
    hosts: tuple[Host, ...],
    wan: tuple[WanLink, ...],
    routes: tuple[Route, ...],
    route: Callable[[tuple[WanLink, ...]], tuple[Route, ...]],
    build: Callable[[Link, int], WanLink],
) -> tuple[Change, ...]:
    """The changes of a network with these hosts, the links `wan` and these routes while a run goes
    on.

    Routers avoid a link that has been down for `convergence`, and return to it when it has been up
    for as long; where no path is left, they keep the one they have.

    Args:
        topology: with the events.
        hosts: as they are at first.
        wan: the links as they are at first.
        routes: the routes as they are at first.
        route: gives the best routes over some of `wan`.
        build: gives a link that becomes so at a time in ns.
    """
    states = topology.states
    avoided = (
        {}
        if topology.convergence == "never"
        else _avoided_by_time(wan, states, topology.convergence)
    )
    parts = [
        *_link_parts(wan, _links_by_time(topology.links, states, build)),
        *_route_parts(wan, routes, route, avoided),
        *_host_parts(hosts, topology.turns),
        *_transfer_parts(topology.transfers),
    ]
    changes = []
    for at_ns, together in groupby(sorted(parts, key=attrgetter("at_ns")), key=attrgetter("at_ns")):
        found = list(together)
        fields = {name: value for part in found for name, value in part.fields.items()}
        changes.append(
            Change(
                at_ns=at_ns, what=tuple(clause for part in found for clause in part.what), **fields
            )
        )
    return tuple(changes)


def _link_parts(
    wan: Sequence[WanLink], changed: Mapping[int, dict[str, WanLink]]
) -> Iterator[Part]:
    links = {link.key: link for link in wan}
    for time, new in changed.items():
        yield Part(time, tuple(_link_clauses(links, new)), {"links": tuple(new.values())})
        links |= new


def _route_parts(
    wan: Sequence[WanLink],
    routes: Sequence[Route],
    route: Callable[[tuple[WanLink, ...]], tuple[Route, ...]],
    avoided: Mapping[int, frozenset[str]],
) -> Iterator[Part]:
    ways, before = {(way.dc, way.destination): way for way in routes}, frozenset[str]()
    for time, avoid in avoided.items():
        best = route(tuple(link for link in wan if link.key not in avoid))
        new = {
            (way.dc, way.destination): way for way in best if way != ways[way.dc, way.destination]
        }
        if new:
            yield Part(time, tuple(_route_clauses(before, avoid)), {"routes": tuple(new.values())})
        ways |= new
        before = avoid


def _host_parts(hosts: Sequence[Host], turns: Sequence[HostTurn]) -> Iterator[Part]:
    machines = {host.name: host for host in hosts}
    words = {None: "back, its ranks start again", "ranks": "ranks are killed", "host": "crashed"}
    for time, together in groupby(turns, key=attrgetter("at_ns")):
        crashes = {turn.host: turn.crash for turn in together}
        named = {kind: [host for host, crash in crashes.items() if crash == kind] for kind in words}
        silent = ((machines[name], crash == "host") for name, crash in crashes.items())
        turned = tuple(
            host.model_copy(update={"silent": now}) for host, now in silent if host.silent != now
        )
        machines |= {host.name: host for host in turned}
        yield Part(
            time,
            tuple(
                f"{_names(named[kind], 'hosts')}: {word}"
                for kind, word in words.items()
                if named[kind]
            ),
            {
                "hosts": turned,
                "killed": (*named["ranks"], *named["host"]),
                "started": tuple(named[None]),
            },
        )


def _transfer_parts(turns: Sequence[TransferTurn]) -> Iterator[Part]:
    for time, together in groupby(turns, key=attrgetter("at_ns")):
        sent = [
            Transfer(**{name: value for name, value in turn._asdict().items() if name != "at_ns"})
            for turn in together
        ]
        yield Part(time, tuple(map(_sends, sent)), {"transfers": tuple(sent)})


def _sends(transfer: Transfer) -> str:
    text = f"{transfer.source} sends {format_decimal_size(transfer.bytes, 4)} to {transfer.target}"
    return text if transfer.pace_bps is None else f"{text} at {format_rate(transfer.pace_bps, 4)}"


def outage_ns(network: Network) -> int:
    """For how long a link is down, at the longest; an outage without an end does not count."""
    longest = 0
    began: dict[str, int] = {}
    for change in network.changes:
        for link in change.links:
            if link.forward.fibre.cut:
                began.setdefault(link.key, change.at_ns)
            elif link.key in began:
                longest = max(longest, change.at_ns - began.pop(link.key))
    return longest


def _links_by_time(
    links: Sequence[Link], states: Sequence[LinkState], build: Callable[[Link, int], WanLink]
) -> dict[int, dict[str, WanLink]]:
    """The links that become others at a time."""
    current = {link.key: (link, False) for link in links}
    found: dict[int, dict[str, WanLink]] = {}
    for state in states:
        for link in links:
            wanted = (state.links.get(link.key, link), link.key in state.down)
            if wanted != current[link.key]:
                current[link.key] = wanted
                built = (
                    _cut(build(wanted[0], state.at_ns))
                    if wanted[1]
                    else build(wanted[0], state.at_ns)
                )
                found.setdefault(state.at_ns, {})[link.key] = built
    return found


def _cut(link: WanLink) -> WanLink:
    ways = [
        way.model_copy(update={"fibre": way.fibre.model_copy(update={"cut": True})})
        for way in link.directions
    ]
    return link.model_copy(update={"forward": ways[0], "backward": ways[1]})


def _avoided_by_time(
    wan: Sequence[WanLink], states: Sequence[LinkState], convergence_ns: int
) -> dict[int, frozenset[str]]:
    """The links that routers avoid from a time on."""
    flips: dict[int, list[tuple[str, bool]]] = {}
    for link in wan:
        spans = outages(states, link.key)
        turns = [(begin, True) for begin, _ in spans] + [
            (end, False) for _, end in spans if end is not None
        ]
        turns.sort()
        avoids = False
        for (time, down), (after, _) in pairwise([*turns, (NEVER, False)]):
            if after - time > convergence_ns and down != avoids:
                avoids = down
                flips.setdefault(time + convergence_ns, []).append((link.key, down))
    avoided, found = frozenset[str](), {}
    for time in sorted(flips):
        for key, down in flips[time]:
            avoided = avoided | {key} if down else avoided - {key}
        found[time] = avoided
    return found


def _link_clauses(before: Links, after: Links) -> Iterator[str]:
    """What is different on the links in `after`, each clause with all links of which it is true."""
    keys: dict[str, list[str]] = {}
    for key, link in after.items():
        for clause in _clauses(before[key], link):
            keys.setdefault(clause, []).append(key)
    for clause, named in keys.items():
        yield f"{_names(named)}: {clause}"


def _clauses(old: WanLink, new: WanLink) -> Iterator[str]:
    was_cut, is_cut = old.forward.fibre.cut, new.forward.fibre.cut
    if was_cut != is_cut:
        yield "down" if is_cut else "up again"
    ways = [_differences(a, b) for a, b in zip(old.directions, new.directions, strict=True)]
    if not any(ways):  # a queue that is written; one in bdp follows the others
        ways = [_queue(a, b) for a, b in zip(old.directions, new.directions, strict=True)]
    if both := [text for text in ways[0] if text in ways[1]]:
        yield ", ".join(both)
    for way, differences in zip(new.directions, ways, strict=True):
        if own := [text for text in differences if text not in both]:
            yield f"to {way.target} {', '.join(own)}"


def _differences(old: Direction, new: Direction) -> list[str]:
    texts = [
        ("rate", *(format_rate(way.bottleneck.rate_bps, 4) for way in (old, new))),
        ("delay", *(_time(way.fibre.delay_ns) for way in (old, new))),
        ("jitter", *(_time(way.fibre.jitter_ns) for way in (old, new))),
        ("loss", *(format_probability(way.fibre.loss.mean, 3) for way in (old, new))),
        ("duplicates", *(format_probability(way.fibre.duplicate, 3) for way in (old, new))),
        ("corruption", *(format_probability(way.fibre.corrupt, 3) for way in (old, new))),
    ]
    return [f"{name} {before} → {after}" for name, before, after in texts if before != after]


def _time(ns: int) -> str:
    return format_time(ns, 4) if ns else "0"


def _queue(old: Direction, new: Direction) -> list[str]:
    before, after = (way.bottleneck.queue_packets for way in (old, new))
    return [] if before == after else [f"queue {before} → {after} packets"]


def _route_clauses(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    if new := sorted(after - before):
        yield f"routes avoid {_names(new)}"
    if gone := sorted(before - after):
        yield f"routes use {_names(gone)} again"


def _names(keys: Sequence[str], noun: str = "links") -> str:
    return ", ".join(keys) if len(keys) <= MOST_NAMED else f"{len(keys)} {noun}"
