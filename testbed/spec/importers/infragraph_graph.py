"""The nodes and cables of a file of InfraGraph: instances and edges without slices."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from testbed.core.errors import InputError
from testbed.core.suggestions import suggest
from testbed.spec import yaml_reader
from testbed.spec.importers.infragraph_slices import expand, name_of
from testbed.spec.yaml_reader import Items, Loc, Section

WRAPPER = "infrastructure"  # key above the infrastructure in files with annotations
SCHEMES = ("one2one", "many2many")
RATES: dict[str, int] = {"gigabits_per_second": 10**9, "gigabytes_per_second": 8 * 10**9}
TRANSFERS = "gigatransfers_per_second"
LATENCIES: dict[str, int] = {"ms": 10**6, "us": 10**3, "ns": 1}
MOST_CABLES = 100_000


@dataclass(frozen=True)
class PhysicalLink:
    """A link's rate in bit/s and one-way delay in ns, as far as the file says."""

    rate: int | None
    delay: int | None


@dataclass(frozen=True)
class Cable:
    """A cable between two nodes."""

    ends: tuple[str, str]
    link: PhysicalLink


class InfraGraph:
    """A file's nodes, such as ``host.0``, and the cables between them.

    Attributes:
        nodes: Device of each node.
        hosts: Nodes whose device has an accelerator, or NICs and no ports.
        cables: All cables.
        notes: What was left out.
    """

    def __init__(self, source: Section) -> None:
        """Read a file.

        Args:
            source: Its contents.

        Raises:
            InputError: The file is wrong.
        """
        self.source = source
        self.notes: list[str] = []
        self._loc: Loc = (WRAPPER,) if WRAPPER in source else ()
        self._graph: Section = source.get(WRAPPER, source)
        self._devices = self._by_name("devices")
        self._instances = self._by_name("instances")
        self._links = self._read_links()
        self._counts: dict[str, int] = {}  # of nodes, by instance
        self.nodes = self._read_nodes()
        self.hosts = {node for node, device in self.nodes.items() if self._is_host(device)}
        self.cables = list(self._read_edges())

    def nodes_of(self, name: str) -> list[str]:
        """Return the nodes that ``host``, ``host.0`` or ``host[0:2]`` stands for; [] if none."""
        if name in self.nodes:
            return [name]
        instance = name_of(name)
        try:
            indexes = expand(name, self._counts.get(instance, 0))
        except ValueError:
            return []
        nodes = [f"{instance}.{index}" for index in indexes]
        return [node for node in nodes if node in self.nodes]

    def _error(self, what: str, loc: Loc, remedy: str = "") -> InputError:
        place = yaml_reader.place_of(self.source, (*self._loc, *loc))
        return InputError(what, place=place, remedy=remedy)

    def _by_name(self, key: str) -> dict[str, Section]:
        """Return the items of a list by their names."""
        items: dict[str, Section] = {}
        for number, item in enumerate(self._graph[key]):
            if not isinstance(item, Section) or not isinstance(item.get("name"), str):
                raise self._error("a name is missing", (key, number))
            if item["name"] in items:
                raise self._error(f"the name {item['name']!r} is there twice", (key, number))
            items[item["name"]] = item
        return items

    # ---- nodes and edges

    def _read_nodes(self) -> dict[str, str]:
        """Return the device of each node, such as ``host.0``."""
        nodes: dict[str, str] = {}
        for number, (name, instance) in enumerate(self._instances.items()):
            loc: Loc = ("instances", number)
            device = str(instance.get("device"))
            if device not in self._devices:
                remedy = suggest(device, self._devices, "the devices")
                raise self._error(f"unknown device {device!r}", (*loc, "device"), remedy)
            self._counts[name] = self._count(instance, loc)
            if sum(self._counts.values()) > MOST_CABLES:
                raise self._error(f"more than {MOST_CABLES} nodes", (*loc, "count"))
            for index in range(self._counts[name]):
                nodes[f"{name}.{index}"] = device
        return nodes

    def _count(self, item: Section, loc: Loc) -> int:
        count = item.get("count", 1)
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MOST_CABLES:
            raise self._error(f"{count!r} is not a valid count", (*loc, "count"))
        return count

    def _is_host(self, device: str) -> bool:
        """Return whether a device has an accelerator, or NICs but no ports as a switch has."""
        kinds = self._kinds(device, ())
        return "xpu" in kinds or ("nic" in kinds and "port" not in kinds)

    def _kinds(self, device: str, seen: tuple[str, ...]) -> set[str]:
        """Return the kinds of components of a device and of the devices inside."""
        kinds: set[str] = set()
        if device in seen or device not in self._devices:
            return kinds
        for component in self._components(device):
            kinds.add(str(component.get("choice")))
            if component.get("choice") == "device":
                kinds |= self._kinds(str(component.get("name")), (*seen, device))
        return kinds

    def _components(self, device: str) -> Iterator[Section]:
        components = self._devices[device].get("components")
        for component in components if isinstance(components, Items) else ():
            if isinstance(component, Section):
                yield component

    def _read_edges(self) -> Iterator[Cable]:
        """Yield the cables between nodes."""
        total = 0
        for number, edge in enumerate(self._graph["edges"]):
            loc: Loc = ("edges", number)
            if not isinstance(edge, Section):
                raise self._error("an edge must be a mapping", loc)
            ends = [self._ends(edge, key, (*loc, key)) for key in ("ep1", "ep2")]
            link = self._link_of(edge, loc)
            for start, end in self._pairs(edge, ends, loc):
                total += 1
                if total > MOST_CABLES:
                    raise self._error(f"more than {MOST_CABLES} cables", loc)
                if start != end:
                    yield Cable((start, end), link)

    def _ends(self, edge: Section, key: str, loc: Loc) -> list[str]:
        """Return the node of each component that an end of an edge stands for."""
        end = edge.get(key)
        if not isinstance(end, Section) or not isinstance(end.get("instance"), str):
            what = "an end of an edge needs an instance and a component"
            raise self._error(what, loc, "such as {instance: 'host[0]', component: 'nic[0]'}")
        name = name_of(end["instance"])
        if name not in self._instances:
            remedy = suggest(name, self._instances, "the instances")
            raise self._error(f"unknown instance {name!r}", (*loc, "instance"), remedy)
        device = str(self._instances[name].get("device"))
        try:
            indexes = expand(end["instance"], self._counts[name])
            cables = self._cables(device, str(end.get("component", "")))
        except ValueError as error:
            raise self._error(str(error), loc) from error
        nodes: list[str] = []
        for index in indexes:
            nodes += [f"{name}.{index}"] * cables
        return nodes

    def _cables(self, device: str, component: str) -> int:
        """Return how many components an expression such as ``nic[0:2]`` stands for."""
        cables = 1
        for part in component.split("."):
            counts = {str(each.get("name")): each for each in self._components(device)}
            name = name_of(part)
            if name not in counts:
                raise ValueError(f"the device {device!r} has no component {name!r}")
            cables *= len(expand(part, self._count(counts[name], ())))
            device = name if name in self._devices else device
        return cables

    def _pairs(self, edge: Section, ends: list[list[str]], loc: Loc) -> Iterable[tuple[str, str]]:
        scheme = edge.get("scheme", SCHEMES[0])
        if scheme not in SCHEMES:
            remedy = f"schemes that can be imported are {', '.join(SCHEMES)}"
            raise self._error(f"unknown scheme {scheme!r}", (*loc, "scheme"), remedy)
        if scheme == SCHEMES[0]:
            return zip(ends[0], ends[1], strict=False)
        return itertools.product(ends[0], ends[1])

    # ---- links

    def _read_links(self) -> dict[str, PhysicalLink]:
        links: dict[str, PhysicalLink] = {}
        for number, link in enumerate(self._graph.get("links") or ()):
            loc: Loc = ("links", number)
            if not isinstance(link, Section) or not isinstance(link.get("name"), str):
                raise self._error("a name is missing", loc)
            physical = link.get("physical")
            physical = physical if isinstance(physical, Section) else Section()
            bandwidth, latency = physical.get("bandwidth"), physical.get("latency")
            if isinstance(bandwidth, Section) and TRANSFERS in bandwidth:
                self.notes.append(f"left out: {TRANSFERS} of the link {link['name']}, no rate")
            rate = self._value(bandwidth, RATES, (*loc, "physical", "bandwidth"))
            delay = self._value(latency, LATENCIES, (*loc, "physical", "latency"))
            links[link["name"]] = PhysicalLink(rate or None, delay)
        return links

    def _value(self, held: object, units: Mapping[str, int], loc: Loc) -> int | None:
        """Return a quantity in base units; None if there is none."""
        if not isinstance(held, Section):
            return None
        for unit, factor in units.items():
            value = held.get(unit)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise self._error(f"{value!r} is not a valid number", (*loc, unit))
            return round(Fraction(str(value)) * factor)
        return None

    def _link_of(self, edge: Section, loc: Loc) -> PhysicalLink:
        name = str(edge.get("link"))
        if name not in self._links:
            remedy = suggest(name, self._links, "the links")
            raise self._error(f"unknown link {name!r}", (*loc, "link"), remedy)
        return self._links[name]
