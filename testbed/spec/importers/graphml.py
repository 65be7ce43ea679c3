"""GraphML in the form of the Internet Topology Zoo: nodes with a position, links with a speed.

The reader uses `label`, `Latitude`, `Longitude` and `Internal` of a node. The speed of an edge is
`LinkSpeedRaw` in bit/s, otherwise `LinkSpeed` with `LinkSpeedUnits`, otherwise a speed in
`LinkLabel` or `LinkType`, such as ``10 Gbps``, ``OC-192`` or ``STM-16``. Other GraphML files of
undirected graphs can be read if their nodes and edges have these attributes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias, cast
from xml.etree.ElementTree import ParseError

import networkx as nx

from testbed.core.errors import InputError, Place
from testbed.core.geo import Location
from testbed.core.units import format_rate, format_time
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    Options,
    check_number,
    listed,
    unique_names,
)

Attributes = Mapping[str, Any]
Graph: TypeAlias = "nx.MultiGraph[str]"

PREFIXES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SONET = {  # bit/s
    "OC": 51_840_000,  # of OC-1 (ANSI T1.105)
    "STM": 155_520_000,  # of STM-1 (ITU-T G.707)
}
EXTERNAL = ("0", "0.0", "False")  # values of `Internal`
_REMARK = r"(?:\s*\(.*\))?"
_SPEED = re.compile(rf"(\d+(?:\.\d+)?)\s*([kKMGT])(?:bits?/s|b/s|bps|b|i?g?E| Ethernet)?{_REMARK}")
_SONET = re.compile(rf"(OC|STM)-?(\d+)c?{_REMARK}")


@dataclass(frozen=True)
class _Bundle:
    """All edges between two nodes; together these edges become one link."""

    ends: tuple[str, str]
    edges: Sequence[Attributes]


def read(path: Path, content: bytes, options: Options) -> Draft:
    """Read the internal nodes of a graph's largest connected component, and their links.

    Args:
        path: The file, for messages.
        content: Contents of the file.
        options: Values that the file does not have.

    Raises:
        InputError: The file is not GraphML of an undirected graph, a link has no delay, or a
            position or a speed is impossible.
    """
    if options.bandwidth is not None:
        what = "a table of rates requires a table of RTTs, not GraphML"
        raise InputError(what, place=Place("--bandwidth"))

    whole = _parse(path, content)
    graph, notes = _select(whole)
    _check_nodes(path, whole, graph)

    names, renamed = _names(graph)
    locations = _locations(path, graph, names)
    bundles = _bundles(graph, names)
    links = [_link(path, bundle, locations, options) for bundle in bundles]

    located_links = sum("delay" not in link.settings for link in links)
    other_links = len(links) - located_links
    return Draft(
        source=_source(whole, len(graph), len(links)),
        datacenters=locations,
        links=links,
        defaults={"detour": options.detour} if located_links else {},
        notes=[
            *notes,
            *_bundle_notes(bundles),
            *_location_notes(locations),
            *renamed,
        ],
        assumed=list(_assumed_delays(located_links, other_links, options)),
    )


def _parse(path: Path, content: bytes) -> Graph:
    place = Place(path)
    try:
        file = io.BytesIO(content)
        graph = cast(Graph, nx.read_graphml(file, force_multigraph=True))
    except ParseError as error:
        line = error.position[0]
        raise InputError(f"not valid XML: {error.msg}", place=Place(path, None, line)) from error
    except (nx.NetworkXError, KeyError, ValueError) as error:
        raise InputError(f"not valid GraphML: {error}", place=place) from error

    if graph.is_directed():
        remedy = 'set edgedefault="undirected"'
        raise InputError("the graph is directed", place=place, remedy=remedy)

    return graph


def _select(whole: Graph) -> tuple[Graph, list[str]]:
    """Return the largest component without external nodes and loops, and notes on omissions."""
    graph = whole.copy()
    notes: list[str] = []

    external = [node for node in whole if _is_external(whole.nodes[node])]
    graph.remove_nodes_from(external)
    if external:
        labels = _labels(whole, external)
        notes.append(f"left out as external (Internal is 0): {labels}")

    loops = list(nx.selfloop_edges(graph))
    graph.remove_edges_from(loops)
    if loops:
        nodes = [node for node, _ in loops]
        labels = _labels(whole, nodes)
        notes.append(f"left out as links from a node to itself: {labels}")

    largest_part = max(nx.connected_components(graph), key=len, default=set())
    unconnected = [node for node in graph if node not in largest_part]
    graph.remove_nodes_from(unconnected)
    if unconnected:
        labels = _labels(whole, unconnected)
        notes.append(f"left out because not connected to the largest part: {labels}")

    return graph, notes


def _is_external(attributes: Attributes) -> bool:
    return str(attributes.get("Internal", 1)) in EXTERNAL


def _labels(graph: Graph, nodes: Iterable[str]) -> str:
    labels = [_label(node, graph.nodes[node]) for node in nodes]
    return listed(labels)


def _label(node: str, attributes: Attributes) -> str:
    return str(attributes.get("label") or node).strip()


def _check_nodes(path: Path, whole: Graph, graph: Graph) -> None:
    if not whole:
        raise InputError("the graph has no nodes", place=Place(path))
    if not graph:
        raise InputError("all nodes of the graph are external", place=Place(path))
    check_number(path, len(graph))


def _names(graph: Graph) -> tuple[dict[str, str], list[str]]:
    """Return the datacenter name of each node, and notes on changed names."""
    labels = [_label(node, graph.nodes[node]) for node in graph]
    names, notes = unique_names(labels)
    return dict(zip(graph, names, strict=True)), notes


def _locations(path: Path, graph: Graph, names: Mapping[str, str]) -> dict[str, Location | None]:
    """Return the location of each datacenter, by name."""
    locations: dict[str, Location | None] = {}
    for node, name in names.items():
        place = Place(path, f"node {name}")
        locations[name] = _location(graph.nodes[node], place)

    return locations


def _location(attributes: Attributes, place: Place) -> Location | None:
    """Return the location of a node; None if a coordinate is missing."""
    north = _number(attributes.get("Latitude"))
    east = _number(attributes.get("Longitude"))
    if north is None or east is None:
        return None

    if abs(north) > 90 or abs(east) > 180:
        what = f"Latitude {north:g} and Longitude {east:g} are not a valid position"
        raise InputError(what, place=place)

    return north, east


def _bundles(graph: Graph, names: Mapping[str, str]) -> list[_Bundle]:
    """Return the edges between each pair of connected nodes, in the order of the nodes."""
    bundles: list[_Bundle] = []
    for start, end in combinations(graph, 2):
        edges = graph.get_edge_data(start, end)
        if edges:
            ends = (names[start], names[end])
            bundles.append(_Bundle(ends, list(edges.values())))

    return bundles


def _bundle_notes(bundles: Iterable[_Bundle]) -> list[str]:
    parallel: list[str] = []
    for bundle in bundles:
        if len(bundle.edges) > 1:
            parallel.append("-".join(bundle.ends))

    if not parallel:
        return []
    return [f"parallel links were merged into one with the sum of their rates: {listed(parallel)}"]


def _location_notes(locations: Mapping[str, Location | None]) -> list[str]:
    nowhere = [name for name, location in locations.items() if location is None]
    if not nowhere:
        return []
    return [f"without a position: {listed(nowhere)}"]


def _link(
    path: Path,
    bundle: _Bundle,
    locations: Mapping[str, Location | None],
    options: Options,
) -> DraftLink:
    """Return the link that combines parallel edges.

    The rate is omitted if any edge has none.
    """
    place = Place(path, "-".join(bundle.ends))
    speeds = [_speed(edge, place) for edge in bundle.edges]
    settings: dict[str, Any] = {}
    if speeds != [None]:
        rate = sum(speed or options.rate for speed in speeds)
        settings["rate"] = format_rate(rate)

    end_locations = [locations[end] for end in bundle.ends]
    if None in end_locations:
        if options.delay is None:
            what = "unknown delay: an end of this link has no position"
            raise InputError(what, place=place, remedy="use --delay, such as --delay '5 ms'")

        settings["delay"] = format_time(options.delay)

    return DraftLink(bundle.ends, settings, rate_assumed=None in speeds)


def _speed(edge: Attributes, place: Place) -> int | None:
    """Return the rate of an edge in bit/s; None if missing or unreadable."""
    speed = _number(edge.get("LinkSpeedRaw"))
    if speed is None:
        speed = _speed_with_units(edge)
    if speed is not None and speed < 0:
        raise InputError(f"a speed of {speed:g} bit/s is negative", place=place)

    if speed is not None and round(speed) > 0:
        return round(speed)

    for key in ("LinkLabel", "LinkType"):
        text = str(edge.get(key, "")).strip()
        speed_in_text = _speed_in(text)
        if speed_in_text:
            return speed_in_text

    return None


def _speed_with_units(edge: Attributes) -> float | None:
    """Return the speed in `LinkSpeed` and `LinkSpeedUnits` in bit/s."""
    number = _number(edge.get("LinkSpeed"))
    units = str(edge.get("LinkSpeedUnits", ""))
    prefix = PREFIXES.get(units[:1].upper())
    if number is None or prefix is None:
        return None
    return number * prefix


def _speed_in(text: str) -> int | None:
    """Return the speed in bit/s of a text such as ``10 Gbps``, ``10GE`` or ``OC-192c``.

    Other texts, such as ``10-20Gbps``, return None.
    """
    if match := _SPEED.fullmatch(text):
        number = float(match[1])
        return round(number * PREFIXES[match[2].upper()])

    if match := _SONET.fullmatch(text):
        multiple = int(match[2])
        return multiple * SONET[match[1]]

    return None


def _number(value: object) -> float | None:
    """Return a finite number; None for other values."""
    try:
        number = float(str(value))
    except ValueError:
        return None

    return number if math.isfinite(number) else None


def _source(whole: Graph, nodes: int, links: int) -> str:
    """Return a description of the file."""
    facts: list[str] = []
    for key in ("Network", "DateYear", "Source"):
        fact = whole.graph.get(key)
        if fact:
            facts.append(str(fact).strip())

    described = ", ".join(facts) or "unnamed"
    return f"GraphML ({described}), {nodes} of {len(whole)} nodes, {links} links"


def _assumed_delays(located: int, others: int, options: Options) -> Iterator[str]:
    """Yield the source of the delays of links with and without positions."""
    if located:
        yield f"delays: computed from fibre {options.detour:g} times as long as the great circle"
    if others and options.delay is not None:
        delay = format_time(options.delay)
        links = f"{others} of {others + located} links"
        yield f"delay: {delay} one way for {links} with an end without a position"
