"""GraphML of the Internet Topology Zoo, networkx, igraph, yEd and others.

A node has a `label` or `name`, a position (`Latitude` and `Longitude`, `lat` and `lon`, or `x` and
`y` of a graph with geographic coordinates) and `Internal`. The speed of an edge is `LinkSpeedRaw`
in bit/s, otherwise `LinkSpeed` with `LinkSpeedUnits`, otherwise an attribute such as
`bandwidth_mbps`, otherwise a speed in `LinkLabel`, `LinkType` or `label`, such as ``10 Gbps``,
``OC-192`` or ``STM-16``. An edge may have a delay, such as `latency_ms`. Names of attributes are
read in either case. In a directed graph, an edge applies to its direction.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias, cast
from xml.etree.ElementTree import ParseError

import networkx as nx

from testbed.core.errors import InputError, Place
from testbed.core.geo import Location
from testbed.core.headings import (
    LOSS_WORDS,
    RATE_WORDS,
    ROUND_TRIP_WORDS,
    TIME_WORDS,
    Heading,
    read_heading,
)
from testbed.core.units import (
    PERCENTAGE,
    RATE,
    TIME,
    Quantity,
    UnitError,
    format_probability,
    format_rate,
    format_time,
)
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    ImportOptions,
    check_number,
    listed,
    unique_names,
)
from testbed.spec.wan import ARROW

Attributes = Mapping[str, Any]
Graph: TypeAlias = "nx.MultiGraph[str]"

EDGE_QUANTITIES: dict[str, Quantity] = {"rate": RATE, "delay": TIME, "loss": PERCENTAGE}
PREFIXES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SONET = {  # bit/s
    "OC": 51_840_000,  # of OC-1 (ANSI T1.105)
    "STM": 155_520_000,  # of STM-1 (ITU-T G.707)
}
EXTERNAL = ("0", "0.0", "false")  # values of `Internal`
DIRECTED = "testbed: directed"  # attribute of a graph that was directed
SOURCE = "testbed: source"  # attribute of an edge of such a graph
ZOO_ATTRIBUTES = ("linkspeed", "linkspeedraw", "linkspeedunits", "linklabel", "linktype")
NORTH = ("latitude", "lat")
EAST = ("longitude", "lon", "lng", "long")
GEOGRAPHIC = ("epsg:4326", "wgs84", "wgs 84", "crs84")  # in `crs` of a graph: x and y are degrees
_REMARK = r"(?:\s*\(.*\))?"
_SPEED = re.compile(rf"(\d+(?:\.\d+)?)\s*([kKMGT])(?:bits?/s|b/s|bps|b|i?g?E| Ethernet)?{_REMARK}")
_SONET = re.compile(rf"(OC|STM)-?(\d+)c?{_REMARK}")


@dataclass(frozen=True)
class _Edge:
    """The values of an edge: the nodes from which it leads, its rate, and its one-way delay.

    Attributes:
        sources: Names of the datacenters; both without a direction.
        rate: In bit/s; None if the file gives none.
        delay: In ns; None if the file gives none.
        loss: Probability; None if the file gives none.
    """

    sources: tuple[str, ...]
    rate: int | None
    delay: int | None
    loss: float | None


@dataclass(frozen=True)
class _Bundle:
    """All edges between two nodes; together these edges become one link."""

    ends: tuple[str, str]
    edges: Sequence[_Edge]

    def toward(self, source: str) -> list[_Edge]:
        """Return the edges that lead from `source`; all edges if none does."""
        return [edge for edge in self.edges if source in edge.sources] or list(self.edges)


def read(path: Path, content: bytes, options: ImportOptions) -> Draft:
    """Read the internal nodes of a graph's largest connected component, and their links.

    Args:
        path: The file, for messages.
        content: Contents of the file.
        options: Values that the file does not have.

    Raises:
        InputError: The file is not GraphML, a link has no delay, an attribute has no unit, or a
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
    edges = _EdgeReader(path, options)
    bundles = _bundles(graph, names, edges)
    links = [_link(path, bundle, locations, options) for bundle in bundles]

    located_links = sum("delay" not in link.settings for link in links)
    other_links = sum(_has_default_delay(bundle, locations) for bundle in bundles)
    return Draft(
        source=_source(whole, len(graph), len(links)),
        datacenters=locations,
        links=links,
        defaults={"detour": options.detour} if located_links else {},
        notes=[
            *notes,
            *_bundle_notes(bundles, whole.graph.get(DIRECTED, False)),
            *_location_notes(locations),
            *renamed,
        ],
        assumed=[
            *_assumed_delays(located_links, other_links, len(links), options),
            *edges.assumed,
        ],
    )


def _parse(path: Path, content: bytes) -> Graph:
    place = Place(path)
    try:
        file = io.BytesIO(content)
        with warnings.catch_warnings(action="ignore"):  # of keys without a type
            graph = cast(Graph, nx.read_graphml(file, force_multigraph=True))
        return _undirected(graph) if graph.is_directed() else graph
    except ParseError as error:
        line = error.position[0]
        raise InputError(f"not valid XML: {error.msg}", place=Place(path, None, line)) from error
    except (nx.NetworkXError, KeyError, ValueError) as error:
        raise InputError(f"not valid GraphML: {error}", place=place) from error


def _undirected(directed: Graph) -> Graph:
    """Return the edges of a directed graph, each with its source as an attribute."""
    graph: Graph = nx.MultiGraph()
    graph.graph.update(directed.graph)
    graph.graph[DIRECTED] = True
    graph.add_nodes_from(directed.nodes(data=True))
    for source, target, attributes in directed.edges(data=True):
        graph.add_edge(source, target, **{**attributes, SOURCE: source})
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
    value = _attribute(attributes, "internal")
    return value is not None and str(value).strip().lower() in EXTERNAL


def _labels(graph: Graph, nodes: Iterable[str]) -> str:
    labels = [_label(node, graph.nodes[node]) for node in nodes]
    return listed(labels)


def _label(node: str, attributes: Attributes) -> str:
    for name in ("label", "name"):
        text = str(_attribute(attributes, name) or "").strip()
        if text:
            return text
    return str(node).strip()


def _attribute(attributes: Attributes, *names: str) -> Any:
    """Return the first attribute with one of `names`, in either case; None without."""
    lower = {str(key).lower(): value for key, value in attributes.items()}
    for name in names:
        if name in lower:
            return lower[name]
    return None


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
    reference = str(_attribute(graph.graph, "crs") or "").lower()
    is_geographic = any(name in reference for name in GEOGRAPHIC)
    locations: dict[str, Location | None] = {}
    for node, name in names.items():
        place = Place(path, f"node {name}")
        locations[name] = _location(graph.nodes[node], place, is_geographic)

    return locations


def _location(attributes: Attributes, place: Place, is_geographic: bool) -> Location | None:
    """Return the location of a node; None if a coordinate is missing.

    x and y are pixels, as in files of yEd, unless the graph `is_geographic`.
    """
    north = _number(_attribute(attributes, *NORTH, *(("y",) if is_geographic else ())))
    east = _number(_attribute(attributes, *EAST, *(("x",) if is_geographic else ())))
    if north is None or east is None:
        return None

    if abs(north) > 90 or abs(east) > 180:
        what = f"Latitude {north:g} and Longitude {east:g} are not a valid position"
        raise InputError(what, place=place)

    return north, east


def _bundles(graph: Graph, names: Mapping[str, str], reader: _EdgeReader) -> list[_Bundle]:
    """Return the edges between each pair of connected nodes, in the order of the nodes."""
    bundles: list[_Bundle] = []
    for start, end in combinations(graph, 2):
        edges = graph.get_edge_data(start, end)
        if not edges:
            continue

        ends = (names[start], names[end])
        read_edges: list[_Edge] = []
        for attributes in edges.values():
            source = attributes.get(SOURCE)
            sources = ends if source is None else (names[source],)
            read_edges.append(reader.edge(attributes, "-".join(ends), sources))
        bundles.append(_Bundle(ends, read_edges))

    return bundles


def _bundle_notes(bundles: Iterable[_Bundle], is_directed: bool) -> list[str]:
    parallel: list[str] = []
    one_way: list[str] = []
    for bundle in bundles:
        sources = [edge.sources for edge in bundle.edges]
        name = "-".join(bundle.ends)
        if len(set(sources)) < len(sources):
            parallel.append(name)
        if is_directed and len(set(sources)) == 1:
            one_way.append(name)

    notes: list[str] = []
    if parallel:
        what = "parallel links were merged into one with the sum of their rates"
        notes.append(f"{what}: {listed(parallel)}")
    if one_way:
        what = "edges of one direction apply to both"
        notes.append(f"{what}: {listed(one_way)}")
    return notes


def _location_notes(locations: Mapping[str, Location | None]) -> list[str]:
    nowhere = [name for name, location in locations.items() if location is None]
    if not nowhere:
        return []
    return [f"without a position: {listed(nowhere)}"]


def _link(
    path: Path,
    bundle: _Bundle,
    locations: Mapping[str, Location | None],
    options: ImportOptions,
) -> DraftLink:
    """Return the link that combines the edges of each direction.

    The rate is omitted if no edge has one.
    """
    texts = _texts_by_direction(bundle, options.rate)
    settings: dict[str, Any] = {}
    speeds = [edge.rate for edge in bundle.edges]
    if speeds != [None]:
        settings["rate"] = _same_or_each(texts.rates)

    if texts.delays:
        settings["delay"] = _same_or_each(texts.delays)
    elif _has_default_delay(bundle, locations):
        if options.delay is None:
            what = "unknown delay: an end of this link has no position"
            place = Place(path, "-".join(bundle.ends))
            raise InputError(what, place=place, remedy="use --delay, such as --delay '5 ms'")

        settings["delay"] = format_time(options.delay)

    if texts.losses:
        settings["loss"] = _same_or_each(texts.losses)
    return DraftLink(bundle.ends, settings, rate_assumed=None in speeds)


@dataclass
class _Texts:
    """Settings of a link as text, by direction; delays and losses only where edges have them."""

    rates: dict[str, str] = field(default_factory=dict)
    delays: dict[str, str] = field(default_factory=dict)
    losses: dict[str, str] = field(default_factory=dict)


def _texts_by_direction(bundle: _Bundle, usual_rate: int) -> _Texts:
    """Return the sum of the rates, the least delay and the most loss of a link's edges.

    Args:
        bundle: the link.
        usual_rate: bit/s of an edge without a rate.
    """
    texts = _Texts()
    for source, target in (bundle.ends, bundle.ends[::-1]):
        edges = bundle.toward(source)
        direction = f"{source}{ARROW}{target}"
        rate = sum(edge.rate or usual_rate for edge in edges)
        texts.rates[direction] = format_rate(rate)

        delays = [edge.delay for edge in edges if edge.delay is not None]
        if delays:
            texts.delays[direction] = format_time(min(delays))

        losses = [edge.loss for edge in edges if edge.loss is not None]
        if losses:
            texts.losses[direction] = format_probability(max(losses))
    return texts


def _same_or_each(values: dict[str, str]) -> str | dict[str, str]:
    """Return the one text of all directions, otherwise a text for each."""
    texts = set(values.values())
    return texts.pop() if len(texts) == 1 else values


def _has_default_delay(bundle: _Bundle, locations: Mapping[str, Location | None]) -> bool:
    """Return whether a link has the delay of the options: no edge has one, an end no position."""
    if any(edge.delay is not None for edge in bundle.edges):
        return False
    return any(locations[end] is None for end in bundle.ends)


class _EdgeReader:
    """Reads the attributes of edges; `assumed` is what the attributes do not say."""

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path = path
        self.options = options
        self.headings: dict[str, Heading] = {}
        self.assumed: list[str] = []

    def edge(self, attributes: Attributes, link: str, sources: tuple[str, ...]) -> _Edge:
        """Return the values of an edge.

        Args:
            attributes: The attributes of the edge.
            link: Key of the link, for messages.
            sources: Names of the datacenters from which the edge leads.

        Raises:
            InputError: An attribute has no unit, or is negative.
        """
        place = Place(self.path, link)
        values: dict[str, Fraction] = {}
        for name, value in attributes.items():
            kind = self._kind(str(name))
            if kind is not None and kind not in values and str(value).strip():
                values[kind] = self._value(kind, str(name), str(value).strip(), place)

        rate = _zoo_speed(attributes, place)
        if rate is None and "rate" in values:
            rate = round(values["rate"]) or None
        if rate is None:
            rate = _speed_in_labels(attributes)

        delay = values.get("delay")
        loss = values.get("loss")
        return _Edge(
            sources=sources,
            rate=rate,
            delay=None if delay is None else round(delay),
            loss=None if loss is None else float(loss / 100),
        )

    def _heading(self, name: str) -> Heading:
        if name not in self.headings:
            self.headings[name] = read_heading(name)
        return self.headings[name]

    def _kind(self, name: str) -> str | None:
        """Return what an attribute holds; None for others, and for those of the Zoo."""
        if name.lower() in ZOO_ATTRIBUTES or name == SOURCE:
            return None

        words = set(self._heading(name).words)
        if words & LOSS_WORDS or "packetloss" in words:
            return "loss"
        if words & TIME_WORDS:
            return "delay"
        return "rate" if words & RATE_WORDS else None

    def _value(self, kind: str, name: str, text: str, place: Place) -> Fraction:
        quantity = EDGE_QUANTITIES[kind]
        heading = self._heading(name)
        unit = heading.unit
        if unit is None and kind == "rate":
            unit = self.options.bandwidth_unit

        number = _number(text)
        if number is not None and number < 0:
            raise InputError(f"the {quantity.name} {name} {text!r} is negative", place=place)
        if number is not None:
            text = f"{text} {unit or ''}".strip()

        try:
            value = quantity.exact(text)
        except UnitError as error:
            example = {"rate": "_mbps", "delay": "_ms", "loss": "_percent"}[kind]
            remedy = f"name the unit in the attribute, such as {name}{example}"
            if kind == "rate":
                remedy += ", or use --bandwidth-unit"
            raise InputError(f"{name}: {error.what}", place=place, remedy=remedy) from error

        words = set(heading.words)
        if kind != "delay":
            return value
        if words & ROUND_TRIP_WORDS and not heading.says_half:
            return value / 2
        if not words & {"delay", "delays", "owd", "half"}:
            self._assume(f"{name!r} of an edge is one way")
        return value

    def _assume(self, text: str) -> None:
        if text not in self.assumed:
            self.assumed.append(text)


def _zoo_speed(edge: Attributes, place: Place) -> int | None:
    """Return the rate in an edge's attributes of the Topology Zoo, in bit/s; None without."""
    speed = _number(_attribute(edge, "linkspeedraw"))
    if speed is None:
        speed = _speed_with_units(edge)
    if speed is not None and speed < 0:
        raise InputError(f"a speed of {speed:g} bit/s is negative", place=place)

    return round(speed) or None if speed is not None else None


def _speed_in_labels(edge: Attributes) -> int | None:
    """Return the speed in the labels of an edge in bit/s; None if missing or unreadable."""
    for name in ("linklabel", "linktype", "label"):
        text = str(_attribute(edge, name) or "").strip()
        speed = _speed_in(text)
        if speed:
            return speed

    return None


def _speed_with_units(edge: Attributes) -> float | None:
    """Return the speed in `LinkSpeed` and `LinkSpeedUnits` in bit/s."""
    number = _number(_attribute(edge, "linkspeed"))
    units = str(_attribute(edge, "linkspeedunits") or "")
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


def _assumed_delays(located: int, others: int, total: int, options: ImportOptions) -> Iterator[str]:
    """Yield the source of the delays of links with and without positions."""
    if located:
        yield f"delays: computed from fibre {options.detour:g} times as long as the great circle"
    if others and options.delay is not None:
        delay = format_time(options.delay)
        links = f"{others} of {total} links"
        yield f"delay: {delay} one way for {links} with an end without a position"
