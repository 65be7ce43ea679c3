"""Lower bounds of the time that a collective operation takes on a topology.

The bound uses only facts common to all algorithms: information needs the one-way delay of the
shortest relay path between two ranks, and the bytes that must cross a cut need the capacity of the
cut. Protocol headers, slow start and processor time are not counted, so no implementation on the
network can be faster, unless the data are compressed.

With S bytes, n ranks, all rates in bit/s, the bound is the maximum of

latency
    The longest one-way delay between two ranks where one needs the other's data (all-reduce,
    all-gather, reduce-scatter, all-to-all, barrier: all pairs; broadcast, scatter: from the root;
    reduce, gather: to the root; send_recv: from each rank to the next, and from the last to the
    first).

cuts
    For each cut A|B, each way: 8 V(A, B) / capacity(A, B) + the least one-way delay from a rank in
    A to a rank in B. A is a host, or a subset of the datacenters (a single datacenter where there
    are more than `MAX_SUBSET_DCS`). The capacity of a host is its NIC's rate in that direction,
    that of datacenters the sum of the WAN rates from A to B. V(A, B) is the least number of bytes
    that must cross, with |A| the number of ranks in A:

    ====================  ===========================================
    all_reduce            S
    all_gather            S |A|/n (S: the total over the ranks)
    reduce_scatter        S |B|/n (S: one rank's whole input)
    all_to_all            S |A| |B|/n (S: data sent by one rank)
    broadcast             S if the root is in A
    scatter               S |B|/n if the root is in A
    reduce                S if the root is in B
    gather                S |A|/n if the root is in B
    send_recv             S times the ranks in A whose next rank is in B
    barrier               0
    ====================  ===========================================

volume
    With k groups of ranks (hosts, or datacenters), each byte of a reduction needs k-1 messages
    between groups before any group knows the result, and each byte of a distribution k-1 messages
    to the groups that lack the byte. So 2(k-1) S (all_reduce) or (k-1) S (broadcast, reduce,
    all_gather, reduce_scatter) bytes pass between groups, through the sum of the transmit rates and
    the sum of the receive rates of the hosts, or the sum of the WAN rates: 8 volume / sum of rates
    + the least delay between two groups. With equal NICs this is the known 2(n-1)/n S / rate (P.
    Patarasuk, X. Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 69(2), 2009).

Where the parts of the ranks differ in size (all_gather, reduce_scatter, all_to_all), V(A, B) is the
sum of the parts that cross, and a rank needs nothing of a rank whose part is empty.

Ranks on one host exchange data without the network: a host is one member with several ranks.

If links change during a run, each link counts with its largest rate and its least delay of all
times, jitter included, and two datacenters count with the shortest of all paths used between them.

Several groups that do the operation at the same time, each among its own ranks, share the network:
the bytes that cross a cut are then the sum over the groups. The slowest group takes at least as
long as the longest bound of any single group and, for each cut, at least 8 (sum of V) / capacity +
the least delay of any group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from testbed.plan.model import Network, Plan, Rank
from testbed.plan.paths import least_delays_to
from testbed.spec.collective import Collective, DataFlow, Parts, Unequal, collectives

MAX_SUBSET_DCS = 10

Matrix = npt.NDArray[np.float64]
CutName = tuple[str, int, bool]


def wire_scale(plan: Plan) -> int:
    """Return the divisor of the bytes that a script's operations send."""
    return int(plan.workers.settings.get("scale", 1)) if plan.workers.workload == "script" else 1


@dataclass(frozen=True)
class DirectedCut:
    """One direction of a cut: from the ranks in A to the ranks in B.

    Attributes:
        inside: ranks in A.
        outside: ranks in B.
        root_inside: whether the root is in A.
        ranks_inside: positions in the group of the ranks in A.
        capacity_bps: capacity of the network from A to B.
        delay_ns: the least one-way delay from a rank in A to a rank in B.
        messages: ranks in A whose next rank is in B.
        name: identifies the same cut in the bounds of other ranks: a host's name or "", the
            datacenters in A as a bit mask, and whether data leave the host or datacenters.
    """

    inside: int
    outside: int
    root_inside: bool
    ranks_inside: frozenset[int]
    capacity_bps: float
    delay_ns: float
    messages: int
    name: CutName


@dataclass(frozen=True)
class Pool:
    """Groups of ranks that exchange data through a shared capacity.

    Attributes:
        groups: number of groups.
        capacity_bps: total capacity of the groups.
        delay_ns: the least one-way delay between two groups.
    """

    groups: int
    capacity_bps: float
    delay_ns: float


@dataclass(frozen=True)
class Crossing:
    """A cut and the bytes that must cross the cut."""

    cut: DirectedCut
    volume: float


class Bounds:
    """Lower bounds of operations on one network and set of ranks; cuts are found only once."""

    def __init__(self, network: Network, ranks: Sequence[Rank]) -> None:
        """Find the cuts, pools and delays of a network.

        Args:
            network: the plan's network.
            ranks: the ranks that take part in the operation; the first is the root.

        Raises:
            ValueError: `ranks` is empty.
        """
        if not ranks:
            raise ValueError("an operation needs at least one rank")

        host_names = [rank.host for rank in ranks]
        names = list(dict.fromkeys(host_names))
        host_of_rank = [names.index(name) for name in host_names]
        self._host_of_rank = np.array(host_of_rank)
        self._counts = np.bincount(host_of_rank)
        self._hosts = [network.host(name) for name in names]
        self._networks = list(network.extremes(rate=max, delay=min))

        self._dcs = [dc.name for dc in network.datacenters]
        dc_of_host = [self._dcs.index(host.dc) for host in self._hosts]
        self._dc_of = np.array(dc_of_host)

        self._next = self._messages_to_next(host_of_rank)
        self._wan = self._wan_rates()
        self._delays = self._relay_delays()
        self._dc_delays = self._delays_between_dcs()
        self._cuts = [*self._host_cuts(), *self._dc_cuts()]
        self._pools = [*self._host_pools(), *self._dc_pools()]

    def us(self, op: str, size: int, parts: Parts | None = None) -> float:
        """Return the lower bound of an operation's time in us.

        Args:
            op: name of the operation, as in the table of the module docstring.
            size: bytes, as nccl-tests counts them.
            parts: bytes of the ranks' parts, as each rank recorded them; None if they are equal.

        Raises:
            ValueError: the operation is not in the table.
        """
        known = collectives()
        if op not in known:
            names = ", ".join(known)
            raise ValueError(f"no bound is known for the operation {op!r}; known are {names}")

        collective = known[op]
        bound_ns = self._latency_ns(collective, parts)
        for crossing in self.crossings(collective, size, parts):
            cut = crossing.cut
            crossed_ns = _time_ns(crossing.volume, cut.capacity_bps, cut.delay_ns)
            bound_ns = max(bound_ns, crossed_ns)

        for pool in self._pools:
            volume = collective.messages * (pool.groups - 1) * size
            if volume > 0:
                pooled_ns = _time_ns(volume, pool.capacity_bps, pool.delay_ns)
                bound_ns = max(bound_ns, pooled_ns)

        return bound_ns / 1000

    def crossings(
        self, collective: Collective, size: int, parts: Parts | None = None
    ) -> Iterator[Crossing]:
        """Yield the cuts, each with the bytes that must cross for an operation.

        Args:
            collective: the operation.
            size: bytes of the operation.
            parts: as for `us`.
        """
        everyone = frozenset(range(len(self._host_of_rank)))
        for cut in self._cuts:
            if parts is None or collective.unequal is None:
                volume = collective.crossing(cut) * size
            else:
                outside = everyone - cut.ranks_inside
                volume = float(collective.unequal.crossing(parts, cut.ranks_inside, outside))

            if volume > 0:
                yield Crossing(cut, volume)

    def _latency_ns(self, collective: Collective, parts: Parts | None) -> float:
        """Return the longest delay between two ranks where one needs the other's data."""
        delays = self._delays
        if parts is not None and collective.unequal is not None:
            return self._latency_of_parts_ns(collective.unequal, parts)

        match collective.flow:
            case DataFlow.FROM_ROOT:
                needed = delays[0]
            case DataFlow.TO_ROOT:
                needed = delays[:, 0]
            case DataFlow.TO_NEXT:
                needed = delays[self._next > 0]
            case DataFlow.ALL_TO_ALL:
                needed = delays

        return float(needed.max(initial=0.0))

    def _latency_of_parts_ns(self, unequal: Unequal, parts: Parts) -> float:
        longest_ns = 0.0
        ranks = range(len(self._host_of_rank))
        for source in ranks:
            for target in ranks:
                if unequal.needed(parts, source, target):
                    delay_ns = self._delays[self._host_of_rank[source], self._host_of_rank[target]]
                    longest_ns = max(longest_ns, float(delay_ns))

        return longest_ns

    def _messages_to_next(self, host_of_rank: Sequence[int]) -> npt.NDArray[np.int64]:
        """Count the ranks of each host (row) whose next rank is on another host (column).

        Args:
            host_of_rank: index of the host of each rank.

        Returns:
            int64, shape (hosts, hosts).
        """
        hosts = len(self._hosts)
        messages = np.zeros((hosts, hosts), dtype=np.int64)
        next_hosts = [*host_of_rank[1:], host_of_rank[0]]
        for host, next_host in zip(host_of_rank, next_hosts, strict=True):
            if host != next_host:
                messages[host, next_host] += 1
        return messages

    def _wan_rates(self) -> Matrix:
        """Return the total link rate in bit/s from datacenter (row) to datacenter (column)."""
        dcs = len(self._dcs)
        rates = np.zeros((dcs, dcs))
        for link in self._networks[0].wan:
            for direction in link.directions:
                source = self._dcs.index(direction.source)
                target = self._dcs.index(direction.target)
                rates[source, target] += direction.bottleneck.rate_bps
        return rates

    def _relay_delays(self) -> Matrix:
        """Return the least one-way delays in ns from host (row) to host (column), relays included.

        Any host can relay (Floyd-Warshall algorithm).
        """
        paths = self._path_delays()
        between_hosts = paths[np.ix_(self._dc_of, self._dc_of)]
        nic_delays = np.array([host.least_nic_delay_ns for host in self._hosts], dtype=float)
        delays = nic_delays[:, None] + between_hosts
        np.fill_diagonal(delays, 0.0)

        for relay in range(len(self._hosts)):
            to_relay = delays[:, relay, None]
            from_relay = delays[None, relay]
            np.minimum(delays, to_relay + from_relay, out=delays)

        return np.asarray(delays)

    def _path_delays(self) -> Matrix:
        """Return the delays in ns of the paths from datacenter (row) to datacenter (column).

        The delay is the least over all states of the network; 0 where a datacenter has no ranks.
        """
        dcs = len(self._dcs)
        paths = np.zeros((dcs, dcs))
        used = sorted(set(self._dc_of))
        for b in used:
            target = self._dcs[b]
            delays_to_target = [least_delays_to(state, target) for state in self._networks]
            for a in used:
                source = self._dcs[a]
                paths[a, b] = min(delays[source] for delays in delays_to_target)

        return paths

    def _delays_to_others(self) -> Matrix:
        """Return the delays in ns from host (row) to host (column); infinite on the diagonal."""
        hosts = len(self._hosts)
        itself = np.diag(np.full(hosts, np.inf))
        return self._delays + itself

    def _host_cuts(self) -> Iterator[DirectedCut]:
        """Yield the cuts between each host and all other hosts."""
        if len(self._hosts) < 2:
            return

        total = int(self._counts.sum())
        delays = self._delays_to_others()
        for index, host in enumerate(self._hosts):
            inside = int(self._counts[index])
            on_host = self._host_of_rank == index
            yield DirectedCut(
                inside=inside,
                outside=total - inside,
                root_inside=index == 0,
                ranks_inside=_positions(on_host),
                capacity_bps=host.nic_up.rate_bps,
                delay_ns=float(delays[index].min()),
                messages=int(self._next[index].sum()),
                name=(host.name, 0, True),
            )
            yield DirectedCut(
                inside=total - inside,
                outside=inside,
                root_inside=index != 0,
                ranks_inside=_positions(~on_host),
                capacity_bps=host.nic_down.rate_bps,
                delay_ns=float(delays[:, index].min()),
                messages=int(self._next[:, index].sum()),
                name=(host.name, 0, False),
            )

    def _delays_between_dcs(self) -> Matrix:
        """Return the least one-way delays in ns between ranks of each two datacenters.

        Delays are infinite where a datacenter has no ranks.
        """
        dcs = len(self._dcs)
        least = np.full((dcs, dcs), np.inf)
        used = set(self._dc_of)
        for a in used:
            from_a = self._delays[self._dc_of == a]
            for b in used - {a}:
                from_a_to_b = from_a[:, self._dc_of == b]
                least[a, b] = from_a_to_b.min()

        return least

    def _dc_cuts(self) -> Iterator[DirectedCut]:
        """Yield the cuts between subsets of the datacenters and the other datacenters."""
        dcs = range(len(self._dcs))
        counts = np.bincount(self._dc_of, weights=self._counts, minlength=len(dcs))
        for mask in _subsets(len(dcs)):
            inside = np.array([bool(mask >> dc & 1) for dc in dcs])
            ranks_inside = int(counts[inside].sum())
            ranks_outside = int(counts[~inside].sum())
            if not ranks_inside or not ranks_outside:
                continue

            across = np.ix_(inside, ~inside)
            hosts_inside = inside[self._dc_of]
            hosts_across = np.ix_(hosts_inside, ~hosts_inside)
            yield DirectedCut(
                inside=ranks_inside,
                outside=ranks_outside,
                root_inside=bool(hosts_inside[0]),
                ranks_inside=_positions(hosts_inside[self._host_of_rank]),
                capacity_bps=float(self._wan[across].sum()),
                delay_ns=float(self._dc_delays[across].min()),
                messages=int(self._next[hosts_across].sum()),
                name=("", mask, True),
            )

    def _host_pools(self) -> Iterator[Pool]:
        """Yield the pool of all hosts' transmit rates and the pool of all hosts' receive rates."""
        count = len(self._hosts)
        if count < 2:
            return

        delay_ns = float(self._delays_to_others().min())
        up_bps = sum(host.nic_up.rate_bps for host in self._hosts)
        down_bps = sum(host.nic_down.rate_bps for host in self._hosts)
        yield Pool(count, float(up_bps), delay_ns)
        yield Pool(count, float(down_bps), delay_ns)

    def _dc_pools(self) -> Iterator[Pool]:
        """Yield the pool of all WAN links."""
        count = len(set(self._dc_of))
        if count > 1:
            capacity_bps = float(self._wan.sum())
            delay_ns = float(self._dc_delays.min())
            yield Pool(count, capacity_bps, delay_ns)


def _positions(chosen: npt.NDArray[np.bool_]) -> frozenset[int]:
    return frozenset(int(position) for position in np.flatnonzero(chosen))


def _time_ns(volume: float, capacity_bps: float, delay_ns: float) -> float:
    """Return the time in ns to send bytes through a capacity, plus the delay."""
    return 8e9 * volume / capacity_bps + delay_ns


def _subsets(count: int) -> Iterator[int]:
    """Yield subsets of `count` datacenters as bit masks: all, or singles and their complements."""
    everything = 2**count - 1
    if count <= MAX_SUBSET_DCS:
        yield from range(1, everything)
        return
    for index in range(count):
        alone = 1 << index
        yield alone
        yield everything ^ alone


def concurrent_us(groups: Sequence[Bounds], op: str, size: int) -> float:
    """Return the lower bound in us of an operation that several groups do at the same time.

    Args:
        groups: bounds of the groups of ranks, all in the same network.
        op: name of the operation.
        size: bytes of each group's operation.

    Raises:
        ValueError: `groups` is empty, or the operation is not in the table.
    """
    bounds_us = [group.us(op, size) for group in groups]
    bound_ns = 1000 * max(bounds_us)

    collective = collectives()[op]
    by_cut: dict[CutName, list[Crossing]] = {}
    for group in groups:
        for crossing in group.crossings(collective, size):
            by_cut.setdefault(crossing.cut.name, []).append(crossing)

    for crossings in by_cut.values():
        volume = sum(crossing.volume for crossing in crossings)
        delay_ns = min(crossing.cut.delay_ns for crossing in crossings)
        capacity_bps = crossings[0].cut.capacity_bps
        crossed_ns = _time_ns(volume, capacity_bps, delay_ns)
        bound_ns = max(bound_ns, crossed_ns)

    return bound_ns / 1000


def longest_rtt_ns(network: Network, ranks: Sequence[Rank]) -> int:
    """Return the longest round trip between two ranks' hosts in ns, without serialisation."""
    hosts = list(dict.fromkeys(rank.host for rank in ranks))
    delay_ns = network.one_way_delay_ns
    return max((delay_ns(a, b) + delay_ns(b, a) for a, b in combinations(hosts, 2)), default=0)


def bound_us(network: Network, ranks: Sequence[Rank], op: str, size: int) -> float:
    """Return the lower bound in us of one operation; `Bounds` is faster for many operations.

    Args:
        network: the plan's network.
        ranks: the ranks that take part; the first is the root.
        op: name of the operation.
        size: bytes of the operation.

    Raises:
        ValueError: `ranks` is empty, or the operation has no known bound.
    """
    return Bounds(network, ranks).us(op, size)
