"""The order in which hosts get their ranks: as written, or a short ring of datacenters.

Ring algorithms send from each rank to the next, and from the last rank to the first. The order of
the datacenters then decides how often data cross long links.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.plan.model import Host, Network
from testbed.plan.paths import figures_to
from testbed.spec.topology import Topology

# Pairs of datacenters that all rings together compare in a round of improvements: a ring has its
# number of datacenters squared.
MOST_PAIRS = 64**3
Delays = dict[tuple[str, str], int]


def hosts_by_rank(topology: Topology, network: Network) -> list[Host]:
    """Return the network's hosts in the order of their ranks.

    Args:
        topology: the topology, whose `ranks` decides.
        network: the resolved network.
    """
    if topology.ranks == "written":
        return list(network.hosts)

    if topology.ranks == "auto":
        return _hosts_of(short_ring(network), network)

    return _hosts_of(topology.ranks, network)


def _hosts_of(names: Sequence[str], network: Network) -> list[Host]:
    """Return the hosts with these names, and those of datacenters with these names."""
    by_datacenter: dict[str, list[Host]] = {}
    for host in network.hosts:
        by_datacenter.setdefault(host.dc, []).append(host)

    hosts: list[Host] = []
    for name in names:
        if name in by_datacenter:
            hosts.extend(by_datacenter[name])
        else:
            hosts.append(network.host(name))
    return hosts


def short_ring(network: Network) -> list[str]:
    """Return the datacenters in the order of a ring with a small sum of round-trip times.

    The ring is the shortest of those that begin at any datacenter and go on to the nearest one that
    is left, improved by reversing parts of it as long as that helps (2-opt). It is the shortest
    ring of all for up to three datacenters. The first datacenter of the topology stays the first.
    With more than 64 datacenters, only some begin a ring (`MOST_PAIRS`).
    """
    names = [dc.name for dc in network.datacenters]
    delays = _round_trips(network, names)
    starts = max(1, MOST_PAIRS // len(names) ** 2)

    best: list[str] = []
    for start in names[:starts]:
        ring = _improved(_nearest_first(start, names, delays), delays)
        if not best or _length(ring, delays) < _length(best, delays):
            best = ring

    first = best.index(names[0])
    return best[first:] + best[:first]


def _round_trips(network: Network, names: Sequence[str]) -> Delays:
    """Return the round-trip propagation in ns between every two datacenters."""
    one_way: Delays = {}
    for target in names:
        for source, figures in figures_to(network, target).items():
            one_way[source, target] = figures.delay_ns

    return {ends: delay + one_way[ends[::-1]] for ends, delay in one_way.items()}


def _nearest_first(start: str, names: Sequence[str], delays: Delays) -> list[str]:
    """Return a ring that goes on to the nearest datacenter that is left."""
    ring = [start]
    left = [name for name in names if name != start]
    while left:
        last = ring[-1]
        nearest = min(left, key=lambda name: delays[last, name])
        ring.append(nearest)
        left.remove(nearest)

    return ring


def _improved(ring: list[str], delays: Delays) -> list[str]:
    """Return the ring after reversing parts of it as long as that shortens it."""
    shortened = True
    while shortened:
        shortened = False
        for begin in range(1, len(ring) - 1):
            for end in range(begin + 1, len(ring)):
                if _gain(ring, begin, end, delays) > 0:
                    ring = [*ring[:begin], *ring[begin : end + 1][::-1], *ring[end + 1 :]]
                    shortened = True

    return ring


def _gain(ring: Sequence[str], begin: int, end: int, delays: Delays) -> int:
    """Return by how much the ring is shorter with its places `begin` to `end` reversed, in ns."""
    before, after = ring[begin - 1], ring[(end + 1) % len(ring)]
    present = delays[before, ring[begin]] + delays[ring[end], after]
    reversed_ = delays[before, ring[end]] + delays[ring[begin], after]
    return present - reversed_


def _length(ring: Sequence[str], delays: Delays) -> int:
    """Return the sum of the round trips between neighbours of a ring, in ns."""
    length = 0
    for place, name in enumerate(ring):
        length += delays[ring[place - 1], name]
    return length
