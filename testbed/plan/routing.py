"""Routes between datacenters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from testbed.plan.model import Hop, Route, WanLink

if TYPE_CHECKING:
    import networkx as nx

Routing = Literal["delay", "hops", "weight"]


def best_routes(
    wan: tuple[WanLink, ...],
    names: list[str],
    *,
    routing: Routing = "delay",
    multipath: bool = False,
    weights: dict[tuple[str, str], int] | None = None,
) -> tuple[Route, ...]:
    """The next hops from every datacenter to every other one along the best path.

    The best path has the least one-way delay, the fewest links, or the least sum of `weights` (by
    source and target of a direction). Of several, the one of least delay and then of fewest links,
    then the next hop that is first in `names`. With `multipath`, all next hops of paths that are
    equally good: of equal delay and as many links, or of as many links, or of equal weight. Where
    there is no path, there is no route.
    """
    import networkx as nx  # noqa: PLC0415 (0.15 s, which most commands do without)

    longest = 1 + sum(way.fibre.delay_ns for link in wan for way in link.directions)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    for link in wan:
        for way, back in (link.directions, link.directions[::-1]):
            delay = way.fibre.delay_ns
            cost = {
                "delay": 0,
                "hops": 1,
                "weight": (weights or {}).get((way.source, way.target), 1),
            }[routing]
            fine = 0 if multipath and routing != "delay" else delay * (len(names) + 1) + 1
            weight = cost * longest * (len(names) + 1) ** 2 + fine
            graph.add_edge(
                way.source, way.target, weight=weight, hop=Hop(link=link.key, via=back.address.ip)
            )
    routes = []
    for destination in names if wan else []:
        distance = nx.single_source_dijkstra_path_length(graph.reverse(copy=False), destination)
        for source in names:
            if source == destination or source not in distance:
                continue
            edges = graph[source]
            hops_on = (hop for hop in edges if hop in distance)
            ways = sorted(
                (edges[hop]["weight"] + distance[hop], names.index(hop), hop) for hop in hops_on
            )
            best = [hop for cost, _, hop in ways if cost == ways[0][0]]
            hops = tuple(edges[hop]["hop"] for hop in (best if multipath else best[:1]))
            routes.append(Route(dc=source, destination=destination, hops=hops))
    return tuple(routes)
