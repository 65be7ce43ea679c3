"""Files of InfraGraph: devices, instances of them, and edges between their components.

An instance whose device has an accelerator, or NICs and no ports, is a host, any other is a switch.
Hosts and switches that short links join are a datacenter: a link with a latency of 100 us or more,
or between nodes with different annotations `datacenter`, `site` or `region`, is a WAN link. A host
has one NIC with the sum of its links' rates. Switches in two regular layers are a leaf-spine
fabric; other switches of a datacenter become one switch without limits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.core.units import format_rate, format_time
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    ImportOptions,
    check_number,
    listed,
    unique_names,
)
from testbed.spec.importers.infragraph_graph import WRAPPER, Cable, InfraGraph, PhysicalLink
from testbed.spec.importers.leaf_spine import leaf_spine
from testbed.spec.topology import MAX_HOSTS
from testbed.spec.yaml_reader import Items, Section

LISTS = ("devices", "instances", "edges")
SITE_ATTRIBUTES = ("datacenter", "site", "region")
LONG_NS = 100_000  # of a link between datacenters: 20 km of fibre


def is_infragraph(source: object) -> bool:
    """Return whether a YAML or JSON file has devices, instances and edges."""
    if not isinstance(source, Section):
        return False
    inner = source.get(WRAPPER, source)
    return isinstance(inner, Section) and all(isinstance(inner.get(key), Items) for key in LISTS)


def read(path: Path, source: Section, options: ImportOptions) -> Draft:
    """Read the datacenters and links of a file of InfraGraph.

    Args:
        path: The file.
        source: Its contents.
        options: Values that the file does not have.

    Raises:
        InputError: The file is wrong, or a link between datacenters has no latency.
    """
    return _Reader(path, source, options).draft()


class _Reader:
    """Turns the nodes of one file into datacenters; `notes` and `assumed` grow meanwhile."""

    def __init__(self, path: Path, source: Section, options: ImportOptions) -> None:
        self.path = path
        self.options = options
        self.graph = InfraGraph(source)
        self.notes = self.graph.notes
        self.assumed: list[str] = []

    def draft(self) -> Draft:
        edges = self.graph.cables
        sites = self._sites(edges)
        labels = list(dict.fromkeys(sites.values()))
        check_number(self.path, len(labels))
        unique, renamed = unique_names(labels, fallback="site")
        names = dict(zip(labels, unique, strict=True))
        site_of = {node: names[label] for node, label in sites.items()}

        settings: dict[str, dict[str, Any]] = {}
        for name in unique:
            nodes = {node for node, site in site_of.items() if site == name}
            within = [edge for edge in edges if nodes.issuperset(edge.ends)]
            settings[name] = self._datacenter(name, nodes, within)
        links = list(self._wan(edges, site_of))
        self._note_what_is_inside()
        hosts, switches = len(self.graph.hosts), len(self.graph.nodes) - len(self.graph.hosts)
        return Draft(
            source=f"InfraGraph, {hosts} hosts, {switches} switches, {len(edges)} cables",
            datacenters=dict.fromkeys(unique),
            links=links,
            notes=[*renamed, *self.notes],
            assumed=self.assumed,
            of_datacenters=settings,
        )

    # ---- datacenters

    def _sites(self, edges: list[Cable]) -> dict[str, str]:
        """Return the label of each node's datacenter."""
        annotated = self._annotated()
        group = {node: node for node in self.graph.nodes}

        def root(node: str) -> str:
            while group[node] != node:
                group[node] = group[group[node]]
                node = group[node]
            return node

        for edge in edges:
            given = [annotated.get(node) for node in edge.ends]
            differ = None not in given and given[0] != given[1]
            if not differ and (edge.link.delay or 0) < LONG_NS:
                first, second = (root(node) for node in edge.ends)
                group[second] = first

        members: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            members.setdefault(root(node), []).append(node)
        connected: set[str] = set()
        for edge in edges:
            connected.update(edge.ends)
        kept = [nodes for nodes in members.values() if connected.intersection(nodes)]
        if not kept:
            raise InputError("no edge between instances", place=Place(self.path, "edges"))
        unconnected = sorted(set(self.graph.nodes).difference(*kept))
        if unconnected:
            self.notes.append(f"left out because nothing connects them: {listed(unconnected)}")
            for node in unconnected:
                self.graph.nodes.pop(node)
                self.graph.hosts.discard(node)
        return self._labels(kept, annotated)

    def _labels(self, groups: list[list[str]], annotated: Mapping[str, str]) -> dict[str, str]:
        """Return a label for each node: its annotation, or the only instance of its hosts."""
        instances = Counter[str]()
        for nodes in groups:
            instances.update(
                {node.rpartition(".")[0] for node in nodes if node in self.graph.hosts}
            )
        labels: dict[str, str] = {}
        for number, nodes in enumerate(groups):
            given = sorted({annotated[node] for node in nodes if node in annotated})
            if len(given) > 1:
                what = f"the sites {listed(given)} are joined by nodes without a site"
                raise InputError(what, place=Place(self.path), remedy="annotate all nodes")
            of_hosts = {node.rpartition(".")[0] for node in nodes if node in self.graph.hosts}
            label = f"site {number + 1}"
            if given:
                label = given[0]
            elif len(of_hosts) == 1 and instances[next(iter(of_hosts))] == 1:
                label = next(iter(of_hosts))
            labels.update(dict.fromkeys(nodes, label))
        return labels

    def _annotated(self) -> dict[str, str]:
        """Return the datacenter that annotations give to nodes."""
        annotations = self.graph.source.get("annotations")
        listed_nodes = annotations.get("nodes") if isinstance(annotations, Section) else None
        found: dict[str, str] = {}
        for entry in listed_nodes if isinstance(listed_nodes, Items) else ():
            if not isinstance(entry, Section):
                continue
            for pair in entry.get("attributes") or ():
                if isinstance(pair, Section) and pair.get("attribute") in SITE_ATTRIBUTES:
                    for node in self.graph.nodes_of(str(entry.get("name"))):
                        found[node] = str(pair.get("value"))
        return found

    def _datacenter(self, name: str, nodes: set[str], edges: list[Cable]) -> dict[str, Any]:
        """Return the settings of a datacenter."""
        hosts = sorted(nodes & self.graph.hosts)
        switches = nodes - self.graph.hosts
        settings: dict[str, Any] = {"hosts": len(hosts) or self.options.hosts}
        if not hosts:
            self.assumed.append(f"hosts: {self.options.hosts} in {name}, which has only switches")
        if len(hosts) > MAX_HOSTS:
            what = f"too many hosts in {name}: {len(hosts)} (at most {MAX_HOSTS})"
            raise InputError(what, place=Place(self.path))
        nic = self._nic(name, hosts, switches, edges)
        if nic:
            settings["nic"] = nic
        fabric = leaf_spine(set(hosts), switches, [(edge.ends, edge.link.rate) for edge in edges])
        if fabric:
            if fabric["oversubscription"] < 1:
                self.notes.append(
                    f"uplinks of {name} are faster than its hosts: oversubscription 1"
                )
                fabric["oversubscription"] = 1
            settings["fabric"] = fabric
        elif len(switches) > 1:
            self.notes.append(
                f"{len(switches)} switches of {name} became one without limits: they are not two "
                "regular layers"
            )
        return settings

    def _nic(
        self, name: str, hosts: list[str], switches: set[str], edges: list[Cable]
    ) -> dict[str, Any]:
        """Return the settings of the hosts' NIC, which a datacenter's hosts have in common."""
        cables: dict[str, list[PhysicalLink]] = {host: [] for host in hosts}
        for edge in edges:
            for here, there in (edge.ends, edge.ends[::-1]):
                if here in cables and there in switches:
                    cables[here].append(edge.link)
        rates: list[int] = []
        delays: list[int] = []
        for links in cables.values():
            rates.append(sum(link.rate or 0 for link in links))
            delays += [link.delay for link in links if link.delay]
        settings: dict[str, Any] = {}
        if any(rates):
            least = min(rate for rate in rates if rate)
            settings["rate"] = format_rate(least)
            if len(set(rates)) > 1:
                self.notes.append(f"hosts of {name} have different rates: the least counts")
        if delays:
            settings["delay"] = format_time(max(delays))
        most = max((len(links) for links in cables.values()), default=0)
        if most > 1:
            self.notes.append(
                f"up to {most} cables of a host of {name} became one NIC with the sum of rates"
            )
        return settings

    def _wan(self, edges: list[Cable], site_of: Mapping[str, str]) -> Iterator[DraftLink]:
        """Yield a link for each pair of datacenters with cables between them."""
        pairs: dict[tuple[str, str], list[PhysicalLink]] = {}
        for edge in edges:
            first, second = (site_of[node] for node in edge.ends)
            if first != second:
                key = (second, first) if (second, first) in pairs else (first, second)
                pairs.setdefault(key, []).append(edge.link)
        for (start, end), links in pairs.items():
            name = f"{start}-{end}"
            settings: dict[str, Any] = {}
            if any(link.rate for link in links):
                total = sum(link.rate or self.options.rate for link in links)
                settings["rate"] = format_rate(total)
            delays = [link.delay for link in links if link.delay is not None]
            settings["delay"] = format_time(max(delays) if delays else self._default_delay(name))
            if len(links) > 1:
                self.notes.append(f"{len(links)} cables became one link: {name}")
            lacks_rate = any(link.rate is None for link in links)
            yield DraftLink((start, end), settings, rate_assumed=lacks_rate)

    def _default_delay(self, link: str) -> int:
        if self.options.delay is None:
            what = "unknown delay: the link has no latency"
            place = Place(self.path, link)
            raise InputError(what, place=place, remedy="use --delay, such as --delay '5 ms'")
        self.assumed.append(f"delay: {format_time(self.options.delay)} for {link}")
        return self.options.delay

    def _note_what_is_inside(self) -> None:
        used = sorted(
            {device for node, device in self.graph.nodes.items() if node in self.graph.hosts}
        )
        if used:
            self.notes.append(
                f"left out: what is inside of {listed(used)} (accelerators, buses, links such as "
                "PCIe and NVLink); a host has one rank unless ranks_per_host says otherwise"
            )
