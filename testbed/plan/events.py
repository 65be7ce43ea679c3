"""Resolve the events of a topology into changes of links, routes, hosts and transfers, by time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from testbed.core.units import format_decimal_size, format_probability, format_rate, format_time
from testbed.plan.model import Change, Direction, Host, Network, Route, Transfer, WanLink
from testbed.spec.events import Crash
from testbed.spec.timeline import HostTurn, LinkState, TransferTurn, outages
from testbed.spec.topology import Topology
from testbed.spec.wan import Link

NEVER = 2**64  # ns
MOST_NAMED = 3  # links or hosts in a clause; of more, their number
CRASH_CLAUSES: dict[Crash | None, str] = {
    None: "back, its ranks start again",
    "ranks": "ranks are killed",
    "host": "crashed",
}
RouteFinder = Callable[[tuple[WanLink, ...]], tuple[Route, ...]]
LinkBuilder = Callable[[Link, int], WanLink]


@dataclass(frozen=True)
class ChangePart:
    """A part of the change at a time.

    Attributes:
        at_ns: time of the change.
        clauses: for people, one for each thing that happens.
        fields: values of fields of `plan.Change`.
    """

    at_ns: int
    clauses: tuple[str, ...]
    fields: dict[str, tuple[Any, ...]]


def resolve_changes(
    topology: Topology,
    hosts: tuple[Host, ...],
    wan: tuple[WanLink, ...],
    routes: tuple[Route, ...],
    find_routes: RouteFinder,
    build_link: LinkBuilder,
) -> tuple[Change, ...]:
    """The changes that a network goes through during a run, by time.

    Routers avoid a link that has been down for `convergence`, and return to it when it has been up
    for as long; where no path is left, they keep the one they have.

    Args:
        topology: with the events.
        hosts: as they are at first.
        wan: the links as they are at first.
        routes: the routes as they are at first.
        find_routes: gives the best routes over some of `wan`.
        build_link: gives a link that changes at a time in ns.
    """
    states = topology.states
    changed_links = _changed_links_by_time(topology.links, states, build_link)
    parts = list(_link_parts(wan, changed_links))

    if topology.convergence != "never":
        avoided = _avoided_links_by_time(wan, states, topology.convergence)
        parts.extend(_route_parts(wan, routes, find_routes, avoided))

    parts.extend(_host_parts(hosts, topology.turns))
    parts.extend(_transfer_parts(topology.transfers))

    parts.sort(key=attrgetter("at_ns"))
    return tuple(
        _joined(at_ns, list(together))
        for at_ns, together in groupby(parts, key=attrgetter("at_ns"))
    )


def _joined(at_ns: int, parts: Sequence[ChangePart]) -> Change:
    """The change that consists of `parts`."""
    clauses: list[str] = []
    fields: dict[str, tuple[Any, ...]] = {}
    for part in parts:
        clauses.extend(part.clauses)
        fields.update(part.fields)
    return Change(at_ns=at_ns, what=tuple(clauses), **fields)


def _link_parts(
    wan: Iterable[WanLink], changed: Mapping[int, Mapping[str, WanLink]]
) -> Iterator[ChangePart]:
    """Parts for the links in `changed`, which has them by time and key."""
    current = {link.key: link for link in wan}
    for at_ns, links in changed.items():
        yield ChangePart(
            at_ns=at_ns,
            clauses=tuple(_link_clauses(current, links)),
            fields={"links": tuple(links.values())},
        )
        current.update(links)


def _route_parts(
    wan: Iterable[WanLink],
    routes: Iterable[Route],
    find_routes: RouteFinder,
    avoided_by_time: Mapping[int, frozenset[str]],
) -> Iterator[ChangePart]:
    """Parts for the routes that become others when the links that routers avoid do."""
    current = {route.ends: route for route in routes}
    avoided_before = frozenset[str]()

    for at_ns, avoided in avoided_by_time.items():
        usable = tuple(link for link in wan if link.key not in avoided)

        changed: list[Route] = []
        for route in find_routes(usable):
            if route != current[route.ends]:
                changed.append(route)
                current[route.ends] = route

        if changed:
            yield ChangePart(
                at_ns=at_ns,
                clauses=tuple(_route_clauses(avoided_before, avoided)),
                fields={"routes": tuple(changed)},
            )
        avoided_before = avoided


def _host_parts(hosts: Iterable[Host], turns: Iterable[HostTurn]) -> Iterator[ChangePart]:
    """Parts for hosts that crash or are back; `turns` are ordered by time."""
    current = {host.name: host for host in hosts}
    for at_ns, together in groupby(turns, key=attrgetter("at_ns")):
        crashes = {turn.host: turn.crash for turn in together}
        names_by_crash: dict[Crash | None, list[str]] = {None: [], "ranks": [], "host": []}
        changed: list[Host] = []

        for name, crash in crashes.items():
            names_by_crash[crash].append(name)
            host = current[name]
            silent = crash == "host"
            if host.silent != silent:
                host = host.model_copy(update={"silent": silent})
                current[name] = host
                changed.append(host)

        fields: dict[str, tuple[Any, ...]] = {
            "hosts": tuple(changed),
            "killed": (*names_by_crash["ranks"], *names_by_crash["host"]),
            "started": tuple(names_by_crash[None]),
        }
        yield ChangePart(
            at_ns=at_ns,
            clauses=tuple(_host_clauses(names_by_crash)),
            fields=fields,
        )


def _host_clauses(names_by_crash: Mapping[Crash | None, Sequence[str]]) -> Iterator[str]:
    """What happens to hosts, each clause with all hosts of which it is true."""
    for crash, clause in CRASH_CLAUSES.items():
        names = names_by_crash[crash]
        if names:
            hosts = _names(names, "hosts")
            yield f"{hosts}: {clause}"


def _transfer_parts(turns: Iterable[TransferTurn]) -> Iterator[ChangePart]:
    """Parts for transfers that begin; `turns` are ordered by time."""
    for at_ns, together in groupby(turns, key=attrgetter("at_ns")):
        transfers = tuple(_transfer(turn) for turn in together)
        yield ChangePart(
            at_ns=at_ns,
            clauses=tuple(_transfer_clause(transfer) for transfer in transfers),
            fields={"transfers": transfers},
        )


def _transfer(turn: TransferTurn) -> Transfer:
    return Transfer(
        source=turn.source,
        target=turn.target,
        bytes=turn.bytes,
        connections=turn.connections,
        pace_bps=turn.pace_bps,
    )


def _transfer_clause(transfer: Transfer) -> str:
    size = format_decimal_size(transfer.bytes, 4)
    clause = f"{transfer.source} sends {size} to {transfer.target}"
    if transfer.pace_bps is not None:
        pace = format_rate(transfer.pace_bps, 4)
        clause += f" at {pace}"
    return clause


def outage_ns(network: Network) -> int:
    """For how long a link of `network` is down at the longest; an endless outage does not count."""
    longest_ns = 0
    began_ns: dict[str, int] = {}  # of outages, by link

    for change in network.changes:
        for link in change.links:
            if link.forward.fibre.cut:
                began_ns.setdefault(link.key, change.at_ns)
            elif link.key in began_ns:
                lasted_ns = change.at_ns - began_ns.pop(link.key)
                longest_ns = max(longest_ns, lasted_ns)

    return longest_ns


def _changed_links_by_time(
    links: Sequence[Link], states: Iterable[LinkState], build_link: LinkBuilder
) -> dict[int, dict[str, WanLink]]:
    """The links that become others, by time in ns and by key."""
    current = {link.key: (link, False) for link in links}
    changed: dict[int, dict[str, WanLink]] = {}
    for state in states:
        changed_now: dict[str, WanLink] = {}
        for link in links:
            key = link.key
            written = state.links.get(key, link)
            is_down = key in state.down
            if current[key] == (written, is_down):
                continue

            current[key] = (written, is_down)
            built = build_link(written, state.at_ns)
            changed_now[key] = _cut(built) if is_down else built

        if changed_now:
            changed[state.at_ns] = changed_now
    return changed


def _cut(link: WanLink) -> WanLink:
    """`link` with both fibres cut."""
    forward = link.forward.with_cut_fibre()
    backward = link.backward.with_cut_fibre()
    return link.with_directions(forward, backward)


def _avoided_links_by_time(
    wan: Iterable[WanLink], states: Sequence[LinkState], convergence_ns: int
) -> dict[int, frozenset[str]]:
    """The keys of the links that routers avoid from a time in ns on."""
    flips: dict[int, list[tuple[str, bool]]] = {}
    for link in wan:
        spans = outages(states, link.key)
        for at_ns, avoid in _avoidance(spans, convergence_ns):
            flips.setdefault(at_ns, []).append((link.key, avoid))

    avoided: set[str] = set()
    avoided_by_time: dict[int, frozenset[str]] = {}
    for at_ns in sorted(flips):
        for key, avoid in flips[at_ns]:
            if avoid:
                avoided.add(key)
            else:
                avoided.remove(key)

        avoided_by_time[at_ns] = frozenset(avoided)
    return avoided_by_time


def _avoidance(
    spans: Iterable[tuple[int, int | None]], convergence_ns: int
) -> Iterator[tuple[int, bool]]:
    """When routers begin (True) and cease (False) to avoid a link that is down during `spans`."""
    turns: list[tuple[int, bool]] = []
    for begin_ns, end_ns in spans:
        turns.append((begin_ns, True))
        if end_ns is not None:
            turns.append((end_ns, False))

    turns.sort()

    avoids = False
    turns.append((NEVER, False))
    for (at_ns, is_down), (next_ns, _) in pairwise(turns):
        lasts = next_ns - at_ns > convergence_ns
        if lasts and is_down != avoids:
            avoids = is_down
            yield at_ns + convergence_ns, is_down


def _link_clauses(before: Mapping[str, WanLink], after: Mapping[str, WanLink]) -> Iterator[str]:
    """What is different on the links in `after`, each clause with all links of which it is true."""
    keys_by_clause: dict[str, list[str]] = {}
    for key, link in after.items():
        old_link = before[key]
        clauses = list(_clauses(old_link, link))
        if not clauses:
            clauses.append(_hidden_difference(old_link, link))

        for clause in clauses:
            keys_by_clause.setdefault(clause, []).append(key)

    for clause, keys in keys_by_clause.items():
        links = _names(keys, "links")
        yield f"{links}: {clause}"


def _clauses(before: WanLink, after: WanLink) -> Iterator[str]:
    """What is different on one link."""
    was_down = before.forward.fibre.cut
    is_down = after.forward.fibre.cut
    if is_down and not was_down:
        yield "down"
    if was_down and not is_down:
        yield "up again"

    forward = _differences(before.forward, after.forward)
    backward = _differences(before.backward, after.backward)
    if not forward and not backward:  # a queue that is written; one in bdp follows the others
        forward = _queue_difference(before.forward, after.forward)
        backward = _queue_difference(before.backward, after.backward)

    common = [text for text in forward if text in backward]
    if common:
        yield ", ".join(common)

    for direction, differences in ((after.forward, forward), (after.backward, backward)):
        separate = [text for text in differences if text not in common]
        if separate:
            texts = ", ".join(separate)
            yield f"to {direction.target} {texts}"


def _hidden_difference(before: WanLink, after: WanLink) -> str:
    """What is different on one link although all its settings read alike."""
    losses_before = [direction.fibre.loss for direction in before.directions]
    losses_after = [direction.fibre.loss for direction in after.directions]
    if losses_before != losses_after:
        return "as much loss, in other bursts"
    return "a small change"


def _differences(before: Direction, after: Direction) -> list[str]:
    """What is different in one direction, but for its queue."""
    new_texts = _texts(after)
    differences: list[str] = []
    for name, old_text in _texts(before).items():
        new_text = new_texts[name]
        if old_text != new_text:
            differences.append(f"{name} {old_text} → {new_text}")
    return differences


def _texts(direction: Direction) -> dict[str, str]:
    """The settings of `direction` for people, by name."""
    fibre = direction.fibre
    return {
        "rate": format_rate(direction.bottleneck.rate_bps, 4),
        "delay": _time(fibre.delay_ns),
        "jitter": _time(fibre.jitter_ns),
        "loss": format_probability(fibre.loss.mean, 3),
        "duplicates": format_probability(fibre.duplicate, 3),
        "corruption": format_probability(fibre.corrupt, 3),
    }


def _time(time_ns: int) -> str:
    return format_time(time_ns, 4) if time_ns else "0"


def _queue_difference(before: Direction, after: Direction) -> list[str]:
    old_packets = before.bottleneck.queue_packets
    new_packets = after.bottleneck.queue_packets
    if old_packets == new_packets:
        return []
    return [f"queue {old_packets} → {new_packets} packets"]


def _route_clauses(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    """What routers do differently when they avoid the links `after` instead of `before`."""
    avoided = sorted(after - before)
    if avoided:
        links = _names(avoided, "links")
        yield f"routes avoid {links}"

    used_again = sorted(before - after)
    if used_again:
        links = _names(used_again, "links")
        yield f"routes use {links} again"


def _names(names: Sequence[str], noun: str) -> str:
    """A few names, or how many there are of more."""
    if len(names) > MOST_NAMED:
        return f"{len(names)} {noun}"
    return ", ".join(names)
