"""Resolve the events of a topology into timed changes of links, routes, hosts and transfers."""

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
MOST_NAMED = 3  # links or hosts named in a clause; a longer list is given as a count
CRASH_CLAUSES: dict[Crash | None, str] = {
    None: "back, its ranks start again",
    "ranks": "ranks are killed",
    "host": "crashed",
}
RouteFinder = Callable[[tuple[WanLink, ...]], tuple[Route, ...]]
LinkBuilder = Callable[[Link, int], WanLink]


@dataclass(frozen=True)
class ChangePart:
    """One part of the change at a point in time.

    Attributes:
        at_ns: time of the change.
        clauses: descriptions for people, one per event.
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
    """Return the changes that a network undergoes during a run, sorted by time.

    Routers avoid a link once the link has been down for `convergence`, and use the link again once
    the link has been up for as long. Where no path is left, routers keep their route.

    Args:
        topology: the topology with its events.
        hosts: the initial hosts.
        wan: the initial links.
        routes: the initial routes.
        find_routes: returns the best routes over a subset of `wan`.
        build_link: returns a link in its state from a time in ns on.
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
    """Return the change that combines `parts`."""
    clauses: list[str] = []
    fields: dict[str, tuple[Any, ...]] = {}
    for part in parts:
        clauses.extend(part.clauses)
        fields.update(part.fields)
    return Change(at_ns=at_ns, what=tuple(clauses), **fields)


def _link_parts(
    wan: Iterable[WanLink], changed: Mapping[int, Mapping[str, WanLink]]
) -> Iterator[ChangePart]:
    """Yield a part for each time in `changed`, which holds the changed links by time and key."""
    current = {link.key: link for link in wan}
    for at_ns, links in changed.items():
        kept = {key: _with_kept_queues(current[key], link) for key, link in links.items()}
        yield ChangePart(
            at_ns=at_ns,
            clauses=tuple(_link_clauses(current, kept)),
            fields={"links": tuple(kept.values())},
        )
        current.update(kept)


def _with_kept_queues(before: WanLink, after: WanLink) -> WanLink:
    """Return `after`, where the queue of a stalled direction is at least as long as `before`."""
    forward = _with_kept_queue(before.forward, after.forward)
    backward = _with_kept_queue(before.backward, after.backward)
    return after.with_directions(forward, backward)


def _with_kept_queue(before: Direction, after: Direction) -> Direction:
    bottleneck = after.bottleneck
    if bottleneck.rate_bps:
        return after

    packets = max(before.bottleneck.queue_packets, bottleneck.queue_packets)
    longer = bottleneck.model_copy(update={"queue_packets": packets})
    return after.model_copy(update={"bottleneck": longer})


def _route_parts(
    wan: Iterable[WanLink],
    routes: Iterable[Route],
    find_routes: RouteFinder,
    avoided_by_time: Mapping[int, frozenset[str]],
) -> Iterator[ChangePart]:
    """Yield a part for each time at which a change of the avoided links changes routes."""
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
    """Yield parts for hosts that crash or recover; `turns` are sorted by time."""
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
    """Yield descriptions of host events, with all affected hosts in one clause."""
    for crash, clause in CRASH_CLAUSES.items():
        names = names_by_crash[crash]
        if names:
            hosts = _names(names, "hosts")
            yield f"{hosts}: {clause}"


def _transfer_parts(turns: Iterable[TransferTurn]) -> Iterator[ChangePart]:
    """Yield parts for transfers that start; `turns` are sorted by time."""
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
    """Return the longest finite outage or stall of a link of `network` in ns."""
    longest_ns = 0
    began_ns: dict[str, int] = {}  # start of the current outage, by link

    for change in network.changes:
        for link in change.links:
            if _carries_nothing(link):
                began_ns.setdefault(link.key, change.at_ns)
            elif link.key in began_ns:
                lasted_ns = change.at_ns - began_ns.pop(link.key)
                longest_ns = max(longest_ns, lasted_ns)

    return longest_ns


def _carries_nothing(link: WanLink) -> bool:
    """Return whether `link` is down or one of its directions stalls."""
    is_stalled = not all(direction.bottleneck.rate_bps for direction in link.directions)
    return link.forward.fibre.cut or is_stalled


def _changed_links_by_time(
    links: Sequence[Link], states: Iterable[LinkState], build_link: LinkBuilder
) -> dict[int, dict[str, WanLink]]:
    """Return the links that change, by time in ns and by key."""
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
    """Return `link` with both fibres cut."""
    forward = link.forward.with_cut_fibre()
    backward = link.backward.with_cut_fibre()
    return link.with_directions(forward, backward)


def _avoided_links_by_time(
    wan: Iterable[WanLink], states: Sequence[LinkState], convergence_ns: int
) -> dict[int, frozenset[str]]:
    """Return the keys of the links that routers avoid, by the time in ns of each change."""
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
    """Yield when routers start (True) or stop (False) avoiding a link with outages `spans`."""
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
    """Yield the differences of the links in `after`, with all affected links in one clause."""
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
    """Yield the differences between two states of one link."""
    was_down = before.forward.fibre.cut
    is_down = after.forward.fibre.cut
    if is_down and not was_down:
        yield "down"
    if was_down and not is_down:
        yield "up again"

    forward = _differences(before.forward, after.forward)
    backward = _differences(before.backward, after.backward)
    if not forward and not backward:  # a length in bdp follows the rest
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
    """Return the difference between two states of a link whose settings have the same text."""
    losses_before = [direction.fibre.loss for direction in before.directions]
    losses_after = [direction.fibre.loss for direction in after.directions]
    if losses_before != losses_after:
        return "as much loss, in other bursts"
    return "a small change"


def _differences(before: Direction, after: Direction) -> list[str]:
    """Return the differences between two states of one direction, except its queue."""
    new_texts = _texts(after)
    differences: list[str] = []
    for name, old_text in _texts(before).items():
        new_text = new_texts[name]
        if old_text != new_text:
            differences.append(f"{name} {old_text} → {new_text}")
    return differences


def _texts(direction: Direction) -> dict[str, str]:
    """Return the settings of `direction` as text, by name."""
    fibre = direction.fibre
    return {
        "rate": _rate(direction.bottleneck.rate_bps),
        "delay": _time(fibre.delay_ns),
        "jitter": _time(fibre.jitter_ns),
        "loss": format_probability(fibre.loss.mean, 3),
        "duplicates": format_probability(fibre.duplicate, 3),
        "corruption": format_probability(fibre.corrupt, 3),
    }


def _rate(rate_bps: int) -> str:
    return format_rate(rate_bps, 4) if rate_bps else "0"


def _time(time_ns: int) -> str:
    return format_time(time_ns, 4) if time_ns else "0"


def _queue_difference(before: Direction, after: Direction) -> list[str]:
    old_packets = before.bottleneck.queue_packets
    new_packets = after.bottleneck.queue_packets
    if old_packets == new_packets:
        return []
    return [f"queue {old_packets} → {new_packets} packets"]


def _route_clauses(before: frozenset[str], after: frozenset[str]) -> Iterator[str]:
    """Yield how routes change when routers avoid the links `after` instead of `before`."""
    avoided = sorted(after - before)
    if avoided:
        links = _names(avoided, "links")
        yield f"routes avoid {links}"

    used_again = sorted(before - after)
    if used_again:
        links = _names(used_again, "links")
        yield f"routes use {links} again"


def _names(names: Sequence[str], noun: str) -> str:
    """Return a short list of names, or the number of names with `noun`."""
    if len(names) > MOST_NAMED:
        return f"{len(names)} {noun}"
    return ", ".join(names)
