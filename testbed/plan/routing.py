"""Find the best routes between datacenters."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from testbed.plan.model import Direction, Hop, Route, WanLink

Routing = Literal["delay", "hops", "weight"]


# A cost is one integer, so that costs add and compare quickly: from the highest bits, the weight
# (number of links, or sum of weights), the delay in ns, and the number of links. Sums of a path
# stay within their bits: a path has at most 250 links, and a delay is less than 2^63 ns.
DELAY_SHIFT = 16
WEIGHT_SHIFT = DELAY_SHIFT + 80


class Edge(NamedTuple):
    """A direction of a WAN link with its routing cost."""

    source: str
    target: str
    cost: int
    hop: Hop


def best_routes(
    wan: tuple[WanLink, ...],
    names: list[str],
    *,
    routing: Routing = "delay",
    multipath: bool = False,
    weights: dict[tuple[str, str], int] | None = None,
) -> tuple[Route, ...]:
    """Return the next hops between all pairs of datacenters along the best path.

    The best path has the lowest one-way delay, the fewest links, or the lowest sum of weights, as
    `routing` says. Ties are broken by delay, then by number of links, then by the order of next
    hops in `names`. With `multipath`, the route has the next hops of all equally good paths: of
    equal delay and number of links, of equal number of links, or of equal weight. Pairs without a
    path have no route.

    Args:
        wan: the links that may be used.
        names: all datacenters.
        routing: the metric of a path.
        multipath: whether a route uses all of several best paths.
        weights: weight by source and target of a direction; 1 by default.

    Returns:
        Routes sorted by destination and then by source, both in the order of `names`.
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
    """Return both directions of every link, with costs."""
    for link in wan:
        for direction in link.directions:
            source = direction.source
            target = direction.target
            weight = weights.get((source, target), 1)
            cost = _cost(direction, routing, multipath, weight)

            far_router = link.opposite(direction).address.ip
            hop = Hop(link=link.key, via=far_router)
            yield Edge(source, target, cost, hop)


def _cost(direction: Direction, routing: Routing, multipath: bool, weight: int) -> int:
    delay_ns = direction.fibre.delay_ns
    if routing == "delay":
        return (delay_ns << DELAY_SHIFT) + 1
    if routing == "hops":
        weight = 1
    if multipath:  # paths of equal weight are equally good, with any delays
        return weight << WEIGHT_SHIFT
    return (weight << WEIGHT_SHIFT) + (delay_ns << DELAY_SHIFT) + 1


def _costs_to(destination: str, entering: Mapping[str, Sequence[Edge]]) -> dict[str, int]:
    """Return the lowest cost from every datacenter with a path to `destination` (Dijkstra).

    Args:
        destination: a datacenter.
        entering: the edges by target.
    """
    costs: dict[str, int] = {destination: 0}
    queue = [(0, destination)]
    while queue:
        cost, name = heapq.heappop(queue)
        if cost > costs[name]:
            continue  # a better path was found meanwhile

        for source, _, edge_cost, _ in entering[name]:
            path_cost = edge_cost + cost
            known_cost = costs.get(source)
            if known_cost is None or path_cost < known_cost:
                costs[source] = path_cost
                heapq.heappush(queue, (path_cost, source))
    return costs


def _best_hops(edges: Sequence[Edge], costs: Mapping[str, int]) -> tuple[Hop, ...]:
    """Return the next hops of the best paths that start with one of `edges`, in their order.

    Args:
        edges: the edges that leave a datacenter.
        costs: the lowest cost from each datacenter to the destination.
    """
    least: int | None = None
    best: list[Hop] = []
    for _, target, edge_cost, hop in edges:
        rest = costs.get(target)
        if rest is None:
            continue

        cost = edge_cost + rest
        if least is None or cost < least:
            least = cost
            best = [hop]
        elif cost == least:
            best.append(hop)
    return tuple(best)
