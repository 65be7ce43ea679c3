"""The least time that a topology allows for a collective operation.

The bound uses only what must be true of every algorithm: information needs the one-way delay of the
shortest relay path between two ranks, and the bytes that must cross a cut need the capacity of the
cut. Protocol headers, slow start and processor time are not counted, so no implementation on the
network can be faster, unless it compresses the data.

With S bytes, n ranks, all rates in bit/s, the bound is the maximum of

latency
    The longest one-way delay between two ranks of which one needs the other's data (all-reduce,
    all-gather, reduce-scatter, all-to-all, barrier: all pairs; broadcast, scatter: from rank 0;
    reduce, gather: to rank 0; send_recv: from each rank to the next, and from the last to the
    first).

cuts
    For each cut A|B, each way: 8 V(A, B) / capacity(A, B) + the least one-way delay from a rank in
    A to a rank in B. A is a host, or a subset of the datacenters (a single datacenter where there
    are more than `MAX_SUBSET_DCS`). The capacity of a host is its NIC's rate in that direction,
    that of datacenters the sum of the WAN rates from A to B. V(A, B) is what must cross, with |A|
    the ranks in A:

    ====================  ===========================================
    all_reduce            S
    all_gather            S |A|/n (S: the total over the ranks)
    reduce_scatter        S |B|/n (S: one rank's whole input)
    all_to_all            S |A| |B|/n (S: what one rank sends)
    broadcast             S if rank 0 is in A
    scatter               S |B|/n if rank 0 is in A
    reduce                S if rank 0 is in B
    gather                S |A|/n if rank 0 is in B
    send_recv             S times the ranks in A whose next rank is in B
    barrier               0
    ====================  ===========================================

volume
    With k groups of ranks (hosts, or datacenters), each byte of a reduction needs k-1 messages
    between groups before any group knows the result, and each byte of a distribution k-1 messages
    to the groups that lack it. So 2(k-1) S (all_reduce) or (k-1) S (broadcast, reduce, all_gather,
    reduce_scatter) bytes pass between groups, through the sum of the transmit rates and the sum of
    the receive rates of the hosts, or the sum of the WAN rates: 8 volume / sum of rates + the least
    delay between two groups. With equal NICs this is the known 2(n-1)/n S / rate (P. Patarasuk, X.
    Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 69(2), 2009).

Ranks on one host exchange data without the network: a host is one member with several ranks.

Where links change while a run goes on, each counts with its largest rate and its least delay of all
times, and between two datacenters the shortest of all paths that were ever taken.

Several groups that do the operation at the same time, each among its own ranks, share the network:
what crosses a cut is then the sum over the groups. The time of the slowest of them is at least the
longest bound of any group alone, and at least 8 (sum of V) / capacity + the least delay of any
group, for each cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from testbed.plan.model import Network, Rank

MAX_SUBSET_DCS = 10

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """One direction of a cut: from the ranks in A to those in B."""

    inside: int  # ranks in A
    outside: int  # ranks in B
    root_inside: bool  # rank 0 is in A
    capacity_bps: float
    delay_ns: float  # the least from a rank in A to a rank in B
    messages: int  # ranks in A whose next rank is in B
    name: tuple[str, int, bool]  # the same for the same cut in the bounds of other ranks


@dataclass(frozen=True)
class Pool:
    """`groups` of ranks that exchange data through `capacity_bps` in total."""

    groups: int
    capacity_bps: float
    delay_ns: float  # the least between two groups


# Bytes that must cross a cut, per byte of the operation's size.
CROSSING: dict[str, Callable[[Cut], float]] = {
    "all_reduce": lambda cut: 1.0,
    "all_gather": lambda cut: cut.inside / (cut.inside + cut.outside),
    "reduce_scatter": lambda cut: cut.outside / (cut.inside + cut.outside),
    "all_to_all": lambda cut: cut.inside * cut.outside / (cut.inside + cut.outside),
    "broadcast": lambda cut: float(cut.root_inside),
    "scatter": lambda cut: cut.root_inside * cut.outside / (cut.inside + cut.outside),
    "reduce": lambda cut: float(not cut.root_inside),
    "gather": lambda cut: (not cut.root_inside) * cut.inside / (cut.inside + cut.outside),
    "send_recv": lambda cut: float(cut.messages),
    "barrier": lambda cut: 0.0,
}
# Messages per byte and group beyond the first, of the reduction and of the distribution together.
MESSAGES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "broadcast": 1, "reduce": 1}
FROM_ROOT = frozenset({"broadcast", "scatter"})
TO_ROOT = frozenset({"reduce", "gather"})


class Bounds:
    """The bounds of one network and set of ranks; the cuts are found once, then every operation is
    quick.
    """

    def __init__(self, network: Network, ranks: Sequence[Rank]) -> None:
        """`ranks` take part in the operation, the first is the root.

        Raises:
            ValueError: no ranks.
        """
        if not ranks:
            raise ValueError("an operation needs at least one rank")
        names = list(dict.fromkeys(rank.host for rank in ranks))
        by_name = {host.name: host for host in network.hosts}
        self._networks = list(network.extremes(rate=max, delay=min))
        self._hosts = [by_name[name] for name in names]
        self._counts = np.array([sum(rank.host == name for rank in ranks) for name in names])
        self._dcs = [dc.name for dc in network.datacenters]
        self._dc_of = np.array([self._dcs.index(host.dc) for host in self._hosts])
        self._next = self._messages_to_next([names.index(rank.host) for rank in ranks])
        self._wan = self._wan_rates()
        self._delays = self._relay_delays()
        self._cuts = [*self._host_cuts(), *self._dc_cuts()]
        self._pools = list(self._make_pools())

    def us(self, op: str, size: int) -> float:
        """The least time in us of `op` with `size` bytes, as nccl-tests counts them (see the table
        above).

        Raises:
            ValueError: the operation is not in the table.
        """
        if op not in CROSSING:
            raise ValueError(
                f"no bound is known for the operation {op!r}; known are {', '.join(CROSSING)}"
            )
        bound = self._latency_ns(op)
        for cut, volume in self.crossing(op, size):
            bound = max(bound, 8e9 * volume / cut.capacity_bps + cut.delay_ns)
        for pool in self._pools:
            volume = MESSAGES.get(op, 0) * (pool.groups - 1) * size
            if volume > 0:
                bound = max(bound, 8e9 * volume / pool.capacity_bps + pool.delay_ns)
        return bound / 1000

    def crossing(self, op: str, size: int) -> Iterator[tuple[Cut, float]]:
        """The cuts that bytes of `op` must cross, and how many."""
        for cut in self._cuts:
            volume = CROSSING[op](cut) * size
            if volume > 0:
                yield cut, volume

    def _latency_ns(self, op: str) -> float:
        if op in FROM_ROOT:
            return float(self._delays[0].max())
        if op in TO_ROOT:
            return float(self._delays[:, 0].max())
        if op == "send_recv":
            return float(self._delays[self._next > 0].max(initial=0.0))
        return float(self._delays.max())

    def _messages_to_next(self, hosts: Sequence[int]) -> npt.NDArray[np.int64]:
        """How many ranks of a host have their next rank on another, by both; `hosts` are those of
        the ranks.
        """
        messages = np.zeros((len(self._hosts), len(self._hosts)), dtype=np.int64)
        for here, following in zip(hosts, [*hosts[1:], hosts[0]], strict=True):
            messages[here, following] += here != following
        return messages

    def _wan_rates(self) -> Matrix:
        rates = np.zeros((len(self._dcs), len(self._dcs)))
        for link in self._networks[0].wan:
            for way in link.directions:
                rates[self._dcs.index(way.source), self._dcs.index(way.target)] += (
                    way.bottleneck.rate_bps
                )
        return rates

    def _relay_delays(self) -> Matrix:
        """Least one-way delay in ns between hosts, direct or relayed by other hosts (Floyd and
        Warshall).
        """
        used = sorted(set(self._dc_of))
        paths = np.zeros((len(self._dcs), len(self._dcs)))
        for a in used:
            for b in used:
                ways = [network.path(self._dcs[a], self._dcs[b]) for network in self._networks]
                paths[a, b] = min(sum(step.fibre.delay_ns for step in way) for way in ways)
        nic = np.array([host.nic_delay_ns for host in self._hosts], dtype=float)
        delays = nic[:, None] + paths[np.ix_(self._dc_of, self._dc_of)]
        np.fill_diagonal(delays, 0.0)
        for relay in range(len(self._hosts)):
            np.minimum(delays, delays[:, relay, None] + delays[None, relay], out=delays)
        return np.asarray(delays)

    def _host_cuts(self) -> Iterator[Cut]:
        total = int(self._counts.sum())
        if len(self._hosts) < 2:
            return
        apart = self._delays + np.diag(np.full(len(self._hosts), np.inf))
        for i, host in enumerate(self._hosts):
            here, sent, received = (
                int(self._counts[i]),
                int(self._next[i].sum()),
                int(self._next[:, i].sum()),
            )
            up, down, name = host.nic_up.rate_bps, host.nic_down.rate_bps, host.name
            yield Cut(here, total - here, i == 0, up, float(apart[i].min()), sent, (name, 0, True))
            yield Cut(
                total - here,
                here,
                i != 0,
                down,
                float(apart[:, i].min()),
                received,
                (name, 0, False),
            )

    def _dc_delays(self) -> Matrix:
        """Least one-way delay in ns between two ranks of two datacenters; infinite where one has no
        ranks.
        """
        least = np.full((len(self._dcs), len(self._dcs)), np.inf)
        for a in set(self._dc_of):
            rows = self._delays[self._dc_of == a]
            for b in set(self._dc_of) - {a}:
                least[a, b] = rows[:, self._dc_of == b].min()
        return least

    def _dc_cuts(self) -> Iterator[Cut]:
        size = len(self._dcs)
        counts = np.bincount(self._dc_of, weights=self._counts, minlength=size)
        delays = self._dc_delays()
        masks = (
            range(1, 2**size - 1)
            if size <= MAX_SUBSET_DCS
            else (way for i in range(size) for way in _both(i, size))
        )
        for mask in masks:
            inside = np.array([bool(mask >> i & 1) for i in range(size)])
            a, b = int(counts[inside].sum()), int(counts[~inside].sum())
            if a and b:
                between = np.ix_(inside, ~inside)
                root, delay = bool(inside[self._dc_of[0]]), float(delays[between].min())
                hosts = inside[self._dc_of]
                messages = int(self._next[np.ix_(hosts, ~hosts)].sum())
                yield Cut(
                    a, b, root, float(self._wan[between].sum()), delay, messages, ("", mask, True)
                )

    def _make_pools(self) -> Iterator[Pool]:
        hosts, dcs = len(self._hosts), len(set(self._dc_of))
        if hosts > 1:
            apart = self._delays + np.diag(np.full(hosts, np.inf))
            for rates in (
                [h.nic_up.rate_bps for h in self._hosts],
                [h.nic_down.rate_bps for h in self._hosts],
            ):
                yield Pool(hosts, float(sum(rates)), float(apart.min()))
        if dcs > 1:
            yield Pool(dcs, float(self._wan.sum()), float(self._dc_delays().min()))


def concurrent_us(groups: Sequence[Bounds], op: str, size: int) -> float:
    """The least time in us until the last of `groups`, of the same network, has done `op`, each
    with `size` bytes.

    Raises:
        ValueError: no groups, or an operation that is not in the table.
    """
    bound = 1000 * max(group.us(op, size) for group in groups)
    cuts: dict[tuple[str, int, bool], list[tuple[Cut, float]]] = {}
    for group in groups:
        for cut, volume in group.crossing(op, size):
            cuts.setdefault(cut.name, []).append((cut, volume))
    for crossing in cuts.values():
        volume, delay = (
            sum(volume for _, volume in crossing),
            min(cut.delay_ns for cut, _ in crossing),
        )
        bound = max(bound, 8e9 * volume / crossing[0][0].capacity_bps + delay)
    return bound / 1000


def _both(i: int, size: int) -> tuple[int, int]:
    """The subsets of datacenter `i` alone and of all others, as bit masks."""
    return 1 << i, (2**size - 1) ^ (1 << i)


def bound_us(network: Network, ranks: Sequence[Rank], op: str, size: int) -> float:
    """The least time in us that `network` allows for `op` with `size` bytes among `ranks` (the
    module has the formula).

    Use `Bounds` for many operations of one network.

    Raises:
        ValueError: no ranks, or an operation without a known bound.
    """
    return Bounds(network, ranks).us(op, size)
