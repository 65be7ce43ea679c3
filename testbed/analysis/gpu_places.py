"""Where the time of an operation of modelled GPUs passes: inside a host, in a datacenter, a link.

An operation crosses the paths between neighbours of its ring, or between all ranks where each sends
to each. Of the WAN links on these paths the one counts that needs most time for its share of the
bytes, and of equal ones the one with the longest delay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import polars as pl

from testbed.plan.model import Direction, Plan

EACH_TO_EACH = ("all_to_all", "gather", "scatter")
MOST_PAIRS = 10_000
SENT, RECEIVED = "send", "recv"


@dataclass(frozen=True)
class PlaceOfOperation:
    """Where an operation spends its time.

    Attributes:
        text: The place, for people.
        link: Key of the WAN link; empty if the place is not a WAN link.
    """

    text: str
    link: str = ""


INSIDE_HOST = PlaceOfOperation("the links inside a host")
UNKNOWN = PlaceOfOperation("an unknown path")


class Places:
    """The places of operations of process groups."""

    def __init__(self, plan: Plan, ops: pl.DataFrame) -> None:
        """Find the ranks of process groups.

        Args:
            plan: the run's plan.
            ops: columns process_group, rank and group_rank of ops.parquet.
        """
        self._plan = plan
        self._ops = ops
        self._known: dict[tuple[str, str, int | None, int | None], PlaceOfOperation] = {}

    def of(self, op: str, process_group: str, peer: int | None, rank: int) -> PlaceOfOperation:
        """Return the place of an operation.

        Args:
            op: name of the operation.
            process_group: as in ops.parquet.
            peer: number of the other rank of a message in its group.
            rank: the rank that waits.
        """
        is_message = op in (SENT, RECEIVED)
        key = (op, process_group, peer, rank if is_message else None)
        place = self._known.get(key)
        if place is None:
            place = self._find(op, process_group, peer, rank)
            self._known[key] = place

        return place

    def _find(self, op: str, process_group: str, peer: int | None, rank: int) -> PlaceOfOperation:
        members = self._members.get(process_group, ())
        if op in (SENT, RECEIVED):
            if peer is None or peer >= len(members):
                return UNKNOWN
            ends = (rank, members[peer]) if op == SENT else (members[peer], rank)
            return self._slowest([ends])

        if not members:
            return UNKNOWN

        if op in EACH_TO_EACH and len(members) ** 2 <= MOST_PAIRS:
            return self._slowest(list(permutations(members, 2)))

        return self._slowest(list(zip(members, [*members[1:], members[0]], strict=True)))

    @cached_property
    def _members(self) -> dict[str, tuple[int, ...]]:
        """The ranks of each process group, in the order of the group."""
        columns = ("process_group", "group_rank", "rank")
        rows = self._ops.select(columns).drop_nulls().unique().sort(columns)
        members: dict[str, tuple[int, ...]] = {}
        for group, _number, rank in rows.iter_rows():
            members[group] = (*members.get(group, ()), rank)

        return members

    def _slowest(self, pairs: list[tuple[int, int]]) -> PlaceOfOperation:
        """Return the slowest link that messages between pairs of ranks cross."""
        ranks = self._plan.workers.ranks
        crossings: Counter[tuple[str, str]] = Counter()
        hosts: set[str] = set()
        datacenters: set[str] = set()
        for source, target in pairs:
            ends = [ranks[source].host, ranks[target].host]
            hosts.update(ends)
            source_dc, target_dc = (self._plan.network.host(host).dc for host in ends)
            datacenters.update((source_dc, target_dc))
            if source_dc != target_dc:
                crossings[source_dc, target_dc] += 1

        if len(hosts) == 1:
            return INSIDE_HOST
        if not crossings:
            return PlaceOfOperation(f"the network of {min(datacenters)}")

        return self._slowest_link(crossings)

    def _slowest_link(self, crossings: Counter[tuple[str, str]]) -> PlaceOfOperation:
        shares: Counter[str] = Counter()
        directions: dict[str, tuple[str, Direction]] = {}
        for (source_dc, target_dc), count in crossings.items():
            for direction in self._plan.network.path(source_dc, target_dc):
                for link in self._links_of(direction):
                    way = f"{link} {direction.source}"
                    directions[way] = (link, direction)
                    shares[way] += count

        def slowness(way: str) -> tuple[float, int, str]:
            _link, direction = directions[way]
            rate_bps = max(1, direction.bottleneck.rate_bps)
            return shares[way] / rate_bps, direction.fibre.delay_ns, way

        if not shares:
            return UNKNOWN
        link, _direction = directions[max(shares, key=slowness)]
        return PlaceOfOperation(f"the WAN link {link}", link)

    def _links_of(self, direction: Direction) -> Iterator[str]:
        for link in self._plan.network.wan:
            if direction in link.directions:
                yield link.key
