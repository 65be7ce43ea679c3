"""Find the best routes between datacenters."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from testbed.plan.model import Direction, Hop, Route, WanLink

Routing = Literal["delay", "hops", "weight"]


class Cost(NamedTuple):
    """The cost of a path. Costs are compared field by field; a field that does not count is 0."""

    weight: int  # number of links or sum of weights
    delay_ns: int
    links: int

    def plus(self, other: Cost) -> Cost:
        """The cost of two paths in a row."""
        return Cost(
            self.weight + other.weight,
            self.delay_ns + other.delay_ns,
            self.links + other.links,
        )


class Edge(NamedTuple):
    """A direction of a WAN link as routers see it."""

    source: str
    target: str
    cost: Cost
    hop: Hop


NO_COST = Cost(0, 0, 0)


def best_routes(
    wan: tuple[WanLink, ...],
    names: list[str],
    *,
    routing: Routing = "delay",
    multipath: bool = False,
    weights: dict[tuple[str, str], int] | None = None,
) -> tuple[Route, ...]:
    """The next hops from every datacenter to every other one along the best path.

    The best path has the least one-way delay, the fewest links, or the least sum of weights. Of
    several, the one of least delay and then of fewest links, then the next hop that is first in
    `names`. With `multipath`, all next hops of paths that are equally good: of equal delay and as
    many links, or of as many links, or of equal weight. Where there is no path, there is no route.

    Args:
        wan: the links that may be used.
        names: all datacenters.
        routing: what makes a path good.
        multipath: whether all of several best paths are used.
        weights: by source and target of a direction; 1 where there is none.

    Returns:
        Routes ordered by destination and then by source, both in the order of `names`.
    """
    if not wan:
        return ()

    leaving: dict[str, list[Edge]] = {name: [] for name in names}
    entering: dict[str, list[Edge]] = {name: [] for name in names}

    for edge in _edges(wan, routing, multipath, weights or {}):
        leaving[edge.source].append(edge)
        entering[edge.target].append(edge)

    position = {name: number for number, name in enumerate(names)}
    for edges in leaving.values():
        edges.sort(key=lambda edge: position[edge.target])

    routes: list[Route] = []
    for destination in names:
        costs = _costs_to(destination, entering)
        for source in names:
            if source == destination or source not in costs:
                continue

            hops = _best_hops(leaving[source], costs)
            if not multipath:
                hops = hops[:1]
            routes.append(Route(dc=source, destination=destination, hops=hops))

    return tuple(routes)


def _edges(
    wan: Sequence[WanLink],
    routing: Routing,
    multipath: bool,
    weights: Mapping[tuple[str, str], int],
) -> Iterable[Edge]:
    """Both directions of every link."""
    for link in wan:
        for direction in link.directions:
            source = direction.source
            target = direction.target
            weight = weights.get((source, target), 1)
            cost = _cost(direction, routing, multipath, weight)

            far_router = link.opposite(direction).address.ip
            hop = Hop(link=link.key, via=far_router)
            yield Edge(source, target, cost, hop)


def _cost(direction: Direction, routing: Routing, multipath: bool, weight: int) -> Cost:
    delay_ns = direction.fibre.delay_ns
    if routing == "delay":
        return Cost(weight=0, delay_ns=delay_ns, links=1)
    if routing == "hops":
        weight = 1
    if multipath:  # paths of equal weight are equally good, whatever their delays
        return Cost(weight, delay_ns=0, links=0)
    return Cost(weight, delay_ns, links=1)


def _costs_to(destination: str, entering: Mapping[str, Sequence[Edge]]) -> dict[str, Cost]:
    """The least cost from every datacenter that has a path to `destination` (Dijkstra).

    Args:
        destination: a datacenter.
        entering: the edges by their targets.
    """
    costs: dict[str, Cost] = {destination: NO_COST}
    queue = [(NO_COST, destination)]
    while queue:
        cost, name = heapq.heappop(queue)
        if cost > costs[name]:
            continue  # a better path has been found since

        for edge in entering[name]:
            path_cost = edge.cost.plus(cost)
            known_cost = costs.get(edge.source)
            if known_cost is None or path_cost < known_cost:
                costs[edge.source] = path_cost
                heapq.heappush(queue, (path_cost, edge.source))
    return costs


def _best_hops(edges: Sequence[Edge], costs: Mapping[str, Cost]) -> tuple[Hop, ...]:
    """The next hops of the best paths that begin with one of `edges`, in the order of `edges`.

    Args:
        edges: those that leave a datacenter.
        costs: the least cost from each datacenter to the destination.
    """
    least: Cost | None = None
    best: list[Hop] = []
    for edge in edges:
        rest = costs.get(edge.target)
        if rest is None:
            continue

        cost = edge.cost.plus(rest)
        if least is None or cost < least:
            least = cost
            best = [edge.hop]
        elif cost == least:
            best.append(edge.hop)
    return tuple(best)
