"""GraphML as the Internet Topology Zoo writes it: nodes with a label and a position, links with a
speed.

Read are, of a node, `label`, `Latitude`, `Longitude` and `Internal`; of an edge, `LinkSpeedRaw` in
bit/s, else `LinkSpeed` with `LinkSpeedUnits`, else a speed in `LinkLabel` or `LinkType`, such as
``10 Gbps``, ``OC-192`` or ``STM-16``. Any other GraphML of an undirected graph is read too, as far
as it has these.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
SONET = {
    "OC": 51_840_000,
    "STM": 155_520_000,
}  # bit/s of OC-1 (ANSI T1.105) and of STM-1 (ITU-T G.707)
_REMARK = r"(?:\s*\(.*\))?"
_SPEED = re.compile(rf"(\d+(?:\.\d+)?)\s*([kKMGT])(?:bits?/s|b/s|bps|b|i?g?E| Ethernet)?{_REMARK}")
_SONET = re.compile(rf"(OC|STM)-?(\d+)c?{_REMARK}")


def read(path: Path, content: bytes, options: Options) -> Draft:
    """The internal nodes of the largest connected part of a graph, and the links between them.

    Raises:
        InputError: it is not GraphML of an undirected graph; a link has no delay; a position or
            speed is impossible.
    """
    if options.bandwidth is not None:
        raise InputError(
            "a table of rates goes with a table of RTTs, not with GraphML",
            place=Place("--bandwidth"),
        )
    whole = _parse(path, content)
    graph, notes = _kept(whole)
    if not graph:
        raise InputError(
            "the graph has no nodes" + (" but external ones" if whole else ""), place=Place(path)
        )
    check_number(path, len(graph))
    names, renamed = unique_names(_label(node, graph.nodes[node]) for node in graph)
    name_of = dict(zip(graph, names, strict=True))
    location_of = {
        name_of[node]: _location(path, name_of[node], graph.nodes[node]) for node in graph
    }
    pairs = {
        (name_of[a], name_of[b]): list(edges.values())
        for a, b in combinations(graph, 2)
        if (edges := graph.get_edge_data(a, b))
    }
    links = [_link(path, ends, edges, location_of, options) for ends, edges in pairs.items()]
    if parallel := ["-".join(ends) for ends, edges in pairs.items() if len(edges) > 1]:
        notes.append(f"parallel links are one link with the sum of their rates: {listed(parallel)}")
    if nowhere := [name for name, location in location_of.items() if location is None]:
        notes.append(f"without a position: {listed(nowhere)}")
    located = sum("delay" not in link.settings for link in links)
    return Draft(
        source=_source(whole, len(graph), len(links)),
        datacenters=location_of,
        links=links,
        defaults={"detour": options.detour} if located else {},
        notes=[*notes, *renamed],
        assumed=list(_assumed_delays(located, len(links) - located, options)),
    )


def _parse(path: Path, content: bytes) -> Graph:
    try:
        graph = cast(Graph, nx.read_graphml(io.BytesIO(content), force_multigraph=True))
    except ParseError as error:
        raise InputError(
            f"this is not XML: {error.msg}", place=Place(path, None, error.position[0])
        ) from error
    except (nx.NetworkXError, KeyError, ValueError) as error:
        raise InputError(f"this is not right GraphML: {error}", place=Place(path)) from error
    if graph.is_directed():
        raise InputError(
            "the graph is directed", place=Place(path), remedy='write edgedefault="undirected"'
        )
    return graph


def _kept(whole: Graph) -> tuple[Graph, list[str]]:
    """The graph without external nodes, loops and all but its largest part, and notes on what was
    left out.
    """
    notes = []
    external = [
        node for node in whole if str(whole.nodes[node].get("Internal", 1)) in ("0", "0.0", "False")
    ]
    graph = whole.copy()
    graph.remove_nodes_from(external)
    if external:
        shown = listed(_label(node, whole.nodes[node]) for node in external)
        notes.append(f"left out as external (Internal is 0): {shown}")
    loops = list(nx.selfloop_edges(graph))
    graph.remove_edges_from(loops)
    if loops:
        notes.append(
            f"left out as links from a node to itself: {listed(_label(a, graph.nodes[a]) for a, _ in loops)}"
        )
    parts = sorted(nx.connected_components(graph), key=len, reverse=True)
    apart = [node for node in graph if node not in parts[0]]
    graph.remove_nodes_from(apart)
    if apart:
        shown = listed(_label(node, whole.nodes[node]) for node in apart)
        notes.append(f"left out as not connected with the largest part: {shown}")
    return graph, notes


def _source(whole: Graph, nodes: int, links: int) -> str:
    about = [
        str(whole.graph[key]).strip()
        for key in ("Network", "DateYear", "Source")
        if whole.graph.get(key)
    ]
    return (
        f"GraphML ({', '.join(about) or 'unnamed'}), {nodes} of {len(whole)} nodes, {links} links"
    )


def _label(node: str, attributes: Attributes) -> str:
    return str(attributes.get("label") or node).strip()


def _location(path: Path, label: str, attributes: Attributes) -> Location | None:
    """Where a node is; None if a coordinate is missing."""
    north, east = (_number(attributes.get(key)) for key in ("Latitude", "Longitude"))
    if north is None or east is None:
        return None
    if not (abs(north) <= 90 and abs(east) <= 180):
        what = f"Latitude {north:g} and Longitude {east:g} are no place"
        raise InputError(what, place=Place(path, f"node {label}"))
    return north, east


def _link(
    path: Path,
    ends: tuple[str, str],
    edges: Sequence[Attributes],
    locations: Mapping[str, Location | None],
    options: Options,
) -> DraftLink:
    """The link that parallel edges make together; its rate is left out if a single edge has
    none.
    """
    place = Place(path, "-".join(ends))
    speeds = [_speed(edge, place) for edge in edges]
    settings = (
        {}
        if speeds == [None]
        else {"rate": format_rate(sum(speed or options.rate for speed in speeds))}
    )
    if None in map(locations.get, ends):
        if options.delay is None:
            what = "an end of this link has no position, so its delay is unknown"
            raise InputError(what, place=place, remedy="give --delay, such as --delay '5 ms'")
        settings["delay"] = format_time(options.delay)
    return DraftLink(ends, settings, rate_assumed=None in speeds)


def _speed(edge: Attributes, place: Place) -> int | None:
    """The rate of an edge in bit/s; None if it has none that can be read."""
    raw, speed = _number(edge.get("LinkSpeedRaw")), _number(edge.get("LinkSpeed"))
    prefix = PREFIXES.get(str(edge.get("LinkSpeedUnits", ""))[:1].upper())
    if raw is None and speed is not None and prefix is not None:
        raw = speed * prefix
    if raw is not None and raw < 0:
        raise InputError(f"a speed of {raw:g} bit/s is negative", place=place)
    texts = (str(edge.get(key, "")).strip() for key in ("LinkLabel", "LinkType"))
    return round(raw or 0) or next((speed for speed in map(_speed_in, texts) if speed), None)


def _speed_in(text: str) -> int | None:
    """bit/s of a text such as ``10 Gbps``, ``10GE`` or ``OC-192c``; None for others, such as
    ``10-20Gbps``.
    """
    if match := _SPEED.fullmatch(text):
        return round(float(match[1]) * PREFIXES[match[2].upper()])
    if match := _SONET.fullmatch(text):
        return int(match[2]) * SONET[match[1]]
    return None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _assumed_delays(located: int, others: int, options: Options) -> Iterator[str]:
    if located:
        yield f"delays: of fibre {options.detour:g} times as long as the great circle"
    if others and options.delay is not None:
        links = f"{others} of {others + located} links"
        yield f"delay: {format_time(options.delay)} one way for {links}, of which an end has no position"
