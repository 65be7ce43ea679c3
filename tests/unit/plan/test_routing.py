"""Routes against brute force: all simple paths of small random graphs."""

from collections.abc import Iterator
from ipaddress import IPv4Interface
from itertools import combinations, pairwise, product
from typing import NamedTuple

from hypothesis import given, settings, strategies as st

from testbed.plan.model import Bottleneck, Direction, Fibre, Hop, Route, WanLink
from testbed.plan.routing import Routing, best_routes

Weights = dict[tuple[str, str], int]
Path = tuple[str, ...]


class Graph(NamedTuple):
    names: list[str]
    wan: tuple[WanLink, ...]
    weights: Weights


def wan_link(index: int, ends: tuple[str, str], delays_ns: tuple[int, int]) -> WanLink:
    def direction(source: str, target: str, side: int) -> Direction:
        return Direction(
            source=source,
            target=target,
            address=IPv4Interface(f"172.16.{index}.{1 + side}/30"),
            mac="02:02:00:00:00:00",
            bottleneck=Bottleneck(rate_bps=1, queue_packets=1),
            fibre=Fibre(delay_ns=delays_ns[side], seed=0),
        )

    forward = direction(ends[0], ends[1], 0)
    backward = direction(ends[1], ends[0], 1)
    return WanLink(key="-".join(ends), index=index, forward=forward, backward=backward)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to five datacenters in any order, any links between them, with few different costs."""
    names = draw(st.permutations("abcde"))[: draw(st.integers(1, 5))]
    small = st.integers(0, 3)
    wan: list[WanLink] = []
    weights: Weights = {}
    for ends in combinations(names, 2):
        if not draw(st.booleans()):
            continue
        wan.append(wan_link(len(wan), ends, draw(st.tuples(small, small))))
        weights[ends] = 1 + draw(small)
        weights[ends[::-1]] = 1 + draw(small)
    return Graph(names, tuple(wan), weights)


def directions(graph: Graph) -> dict[tuple[str, str], tuple[Direction, Hop]]:
    """Each direction, and the hop into it, by source and target."""
    found = {}
    for link in graph.wan:
        for direction, opposite in (link.directions, link.directions[::-1]):
            hop = Hop(link=link.key, via=opposite.address.ip)
            found[direction.source, direction.target] = (direction, hop)
    return found


def simple_paths(graph: Graph, source: str, destination: str) -> Iterator[Path]:
    """Every path that visits no datacenter twice."""
    neighbours = directions(graph).keys()

    def extended(path: Path) -> Iterator[Path]:
        if path[-1] == destination:
            yield path
            return
        for name in graph.names:
            if name not in path and (path[-1], name) in neighbours:
                yield from extended((*path, name))

    return extended((source,))


def cost(graph: Graph, path: Path, routing: Routing, multipath: bool) -> tuple[int, ...]:
    """What the documentation of `routing` and `multipath` says."""
    steps = list(pairwise(path))
    delay_ns = sum(directions(graph)[step][0].fibre.delay_ns for step in steps)
    links = len(steps)
    weight = sum(graph.weights[step] for step in steps)
    if routing == "delay":
        return (delay_ns, links)
    first = links if routing == "hops" else weight
    return (first,) if multipath else (first, delay_ns, links)


def expected_route(
    graph: Graph, source: str, destination: str, routing: Routing, multipath: bool
) -> Route | None:
    paths = list(simple_paths(graph, source, destination))
    if not paths:
        return None
    least = min(cost(graph, path, routing, multipath) for path in paths)
    best = {path[1] for path in paths if cost(graph, path, routing, multipath) == least}
    next_names = [name for name in graph.names if name in best]
    if not multipath:
        next_names = next_names[:1]
    hops = tuple(directions(graph)[source, name][1] for name in next_names)
    return Route(dc=source, destination=destination, hops=hops)


@settings(max_examples=150, deadline=None)
@given(
    graph=graphs(),
    routing=st.sampled_from(["delay", "hops", "weight"]),
    multipath=st.booleans(),
)
def test_best_routes(graph: Graph, routing: Routing, multipath: bool) -> None:
    expected: list[Route] = []
    for destination, source in product(graph.names, graph.names):
        if source == destination:
            continue
        route = expected_route(graph, source, destination, routing, multipath)
        if route is not None:
            expected.append(route)
    routes = best_routes(
        graph.wan, graph.names, routing=routing, multipath=multipath, weights=graph.weights
    )
    assert routes == tuple(expected)
