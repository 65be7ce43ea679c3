"""Divide the datacenters of a plan among several guests, which run at the same time.

A guest may run ahead of another by the delay of the links between them, so only links with a delay
are divided. Guests get about equal numbers of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.core.errors import InputError, Place
from testbed.plan.model import CutLink, GuestSite, Network, Plan
from testbed.spec.options import AUTO_GUESTS

# With a shorter delay, guests would wait for each other more often than they work.
LEAST_DELAY_NS = 500_000
PLACE = Place("--guests")


@dataclass(frozen=True)
class _Delays:
    """The least delays of a WAN link's two directions, in ns."""

    forward_ns: int
    backward_ns: int

    @property
    def least_ns(self) -> int:
        return min(self.forward_ns, self.backward_ns)


def divided(plan: Plan, guests: int, *, cpus: int, base_bytes: int) -> Plan:
    """Return the plan with its datacenters divided among guests.

    Args:
        plan: the plan of a run in one guest.
        guests: number of guests, or `AUTO_GUESTS`.
        cpus: number of CPUs of the machine.
        base_bytes: the part of a guest's memory that does not depend on the number of its ranks.

    Raises:
        InputError: the plan cannot be carried out in so many guests.
    """
    if guests == 1:
        return plan
    reason = why_one_guest(plan)
    if reason:
        if guests == AUTO_GUESTS:
            return plan
        raise InputError(f"{reason} needs one guest", place=PLACE, remedy="use --guests 1")

    delays = _least_delays(plan.network)
    clusters = _clusters(plan.network, delays)
    wanted = min(len(clusters), cpus) if guests == AUTO_GUESTS else guests
    if wanted > len(clusters):
        raise InputError(
            f"links whose delay is at least {LEAST_DELAY_NS / 1e6} ms at all times divide the "
            f"network into {len(clusters)}, too few for {wanted} guests",
            place=PLACE,
            remedy=f"use --guests {len(clusters)}",
        )
    if wanted == 1:
        return plan
    groups = _groups(plan, clusters, wanted)
    sites = _sites(plan, groups, delays, base_bytes)
    if _first_change_ns(plan.network) < sites[0].control_delay_ns:
        if guests == AUTO_GUESTS:
            return plan
        raise InputError(
            "an event begins so soon after the first operation that not all guests can know of it: "
            f"the least delay between guests is {sites[0].control_delay_ns / 1e6} ms",
            place=PLACE,
            remedy="use --guests 1, or let the event begin later",
        )
    return plan.model_copy(update={"sites": sites})


def why_one_guest(plan: Plan) -> str:
    """Return what of a plan cannot be divided among guests; empty if nothing."""
    workers = plan.workers
    if plan.jobs:
        return "a run with several jobs"
    if plan.where != "guest" or plan.clock != "virtual":
        return "the real clock"
    if workers.settings.get("shared_folder"):
        return "a folder that all hosts share"
    if workers.from_first_host or workers.remote_shells:
        return "a command that starts programs on other hosts"
    return ""


def _least_delays(network: Network) -> dict[str, _Delays]:
    """Return the least delays over time, by the key of the WAN link."""
    least = next(network.extremes(rate=min, delay=min))
    delays: dict[str, _Delays] = {}
    for link in least.wan:
        delays[link.key] = _Delays(link.forward.fibre.delay_ns, link.backward.fibre.delay_ns)
    return delays


def _clusters(network: Network, delays: Mapping[str, _Delays]) -> list[list[str]]:
    """Return the datacenters in groups that are joined by links that cannot be divided."""
    cluster_of = {dc.name: [dc.name] for dc in network.datacenters}
    for link in network.wan:
        if delays[link.key].least_ns >= LEAST_DELAY_NS:
            continue
        kept = cluster_of[link.forward.source]
        joined = cluster_of[link.forward.target]
        if kept is joined:
            continue
        kept.extend(joined)
        for name in joined:
            cluster_of[name] = kept

    by_identity = {id(cluster): cluster for cluster in cluster_of.values()}
    return list(by_identity.values())


def _groups(plan: Plan, clusters: Sequence[list[str]], guests: int) -> list[list[str]]:
    """Return the datacenters of each guest; the largest cluster goes to the guest with least ranks.

    The first guest has rank 0.
    """
    ranks: dict[str, int] = {}
    for rank in plan.workers.ranks:
        dc = plan.network.host(rank.host).dc
        ranks[dc] = ranks.get(dc, 0) + 1

    def size(datacenters: Sequence[str]) -> int:
        return sum(ranks.get(dc, 0) for dc in datacenters)

    groups: list[list[str]] = [[] for _guest in range(guests)]
    for cluster in sorted(clusters, key=size, reverse=True):
        empty = [group for group in groups if not group]
        smallest = empty[0] if empty else min(groups, key=size)
        smallest.extend(cluster)

    first_dc = plan.network.host(plan.workers.ranks[0].host).dc
    order = [dc.name for dc in plan.network.datacenters]
    for group in groups:
        group.sort(key=order.index)
    return sorted(groups, key=lambda group: (first_dc not in group, order.index(group[0])))


def _sites(
    plan: Plan, groups: Sequence[Sequence[str]], delays: Mapping[str, _Delays], base_bytes: int
) -> tuple[GuestSite, ...]:
    """Return the sites, with the links between them."""
    network = plan.network
    guest_of: dict[str, int] = {}
    for number, group in enumerate(groups):
        for dc in group:
            guest_of[dc] = number

    crossings: list[CutLink] = []
    for link in network.wan:
        ends = (guest_of[link.forward.source], guest_of[link.forward.target])
        if ends[0] == ends[1]:
            continue
        link_delays = delays[link.key]
        crossing = CutLink(
            link=link.key,
            device=len(crossings),
            ends=ends,
            delays_ns=(link_delays.forward_ns, link_delays.backward_ns),
        )
        crossings.append(crossing)

    control_delay_ns = min(min(crossing.delays_ns) for crossing in crossings)
    first_control = len(crossings)
    sites: list[GuestSite] = []
    for number, group in enumerate(groups):
        devices = [first_control + number - 1]
        if number == 0:
            devices = [first_control + other for other in range(len(groups) - 1)]
        site = GuestSite(
            number=number,
            datacenters=tuple(group),
            crossings=tuple(crossing for crossing in crossings if number in crossing.ends),
            control_devices=tuple(devices),
            control_delay_ns=control_delay_ns,
            memory_bytes=_memory_bytes(plan, group, base_bytes),
        )
        sites.append(site)
    return tuple(sites)


def _memory_bytes(plan: Plan, datacenters: Sequence[str], base_bytes: int) -> int:
    """Return the memory of a guest: the base, and the part of the rest for the guest's hosts."""
    total_bytes = plan.guest_memory_bytes
    base_bytes = min(base_bytes, total_bytes)
    hosts = [host for host in plan.network.hosts if host.dc in datacenters]
    rest_bytes = (total_bytes - base_bytes) * len(hosts) // len(plan.network.hosts)
    return base_bytes + rest_bytes


def _first_change_ns(network: Network) -> float:
    return min((change.at_ns for change in network.changes), default=float("inf"))
