"""Topologies of containerlab: nodes and links of a ``.clab.yml`` file.

A node's `group`, or its label `datacenter`, `site` or `region`, names its datacenter; a node
without one is a datacenter. Labels and variables of a link give `delay`, `jitter`, `loss` and
`rate`, as the options of ``containerlab tools netem set`` do: a bare rate is in kbit/s, a bare loss
in percent. Other names, such as `bandwidth_mbps`, need a unit in the name or the value. Labels
`location` of a node, or `graph-geoCoordinateLat` and `graph-geoCoordinateLng`, give its position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.core.gazetteer import locate
from testbed.core.geo import Location
from testbed.core.headings import (
    JITTER_WORDS,
    LOSS_WORDS,
    RATE_WORDS,
    ROUND_TRIP_WORDS,
    TIME_WORDS,
    Heading,
    read_heading,
    with_usual_unit,
)
from testbed.core.suggestions import suggest
from testbed.core.table_files import is_plain_number
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
from testbed.spec import yaml_reader
from testbed.spec.importers.draft import (
    Draft,
    DraftLink,
    ImportOptions,
    check_number,
    listed,
    unique_names,
)
from testbed.spec.yaml_reader import Items, Loc, Section

GROUP_LABELS = ("datacenter", "site", "region", "graph-group")
OUTSIDE = ("host", "mgmt-net", "macvlan", "vxlan", "vxlan-stitch", "dummy")
NETEM_UNITS = {"rate": "kbit/s", "loss": "%"}
QUANTITIES: dict[str, Quantity] = {
    "delay": TIME,
    "jitter": TIME,
    "loss": PERCENTAGE,
    "rate": RATE,
}
WORDS = {"jitter": JITTER_WORDS, "loss": LOSS_WORDS, "rate": RATE_WORDS, "delay": TIME_WORDS}
LINK_SECTIONS = ("labels", "vars")
NORTH = "graph-geoCoordinateLat"
EAST = "graph-geoCoordinateLng"


@dataclass
class _Pair:
    """All links between two datacenters, as one: rates add, the longest delay counts."""

    values: list[dict[str, Fraction]] = field(default_factory=list)

    def largest(self, name: str) -> Fraction | None:
        """Return the largest value of the label `name`, in base units; None if no link has it."""
        return max((values[name] for values in self.values if name in values), default=None)


def _setting_of(heading: Heading) -> str | None:
    """Return the setting that the name of a label means; None for other labels."""
    words = set(heading.words)
    for name, known in WORDS.items():
        if words & known:
            return name
    return None


def is_containerlab(source: Section) -> bool:
    """Return whether a YAML file has nodes as containerlab writes them."""
    topology = source.get("topology")
    return isinstance(topology, Section) and isinstance(topology.get("nodes"), Section)


def read(path: Path, source: Section, options: ImportOptions) -> Draft:
    """Read the datacenters and links of a file of containerlab.

    Args:
        path: The file.
        source: Its contents.
        options: Values that the file does not have.

    Raises:
        InputError: The file is not one of containerlab, or a link has no delay.
    """
    if not is_containerlab(source):
        what = "not a file of containerlab: topology.nodes is missing"
        remedy = "topology files of the testbed need no import"
        raise InputError(what, place=Place(path), remedy=remedy)
    return _Reader(source, options, path).draft()


class _Reader:
    """Reads one file; `notes` and `assumed` grow as it is read."""

    def __init__(self, source: Section, options: ImportOptions, path: Path) -> None:
        self.source = source
        self.options = options
        self.path = path
        self.nodes: Section = source["topology"]["nodes"]
        self.notes: list[str] = []
        self.assumed: list[str] = []

    def draft(self) -> Draft:
        groups = {node: self._group(node) for node in self.nodes}
        labels = list(dict.fromkeys(groups.values()))
        check_number(self.path, len(labels))
        unique, renamed = unique_names(labels)
        names = dict(zip(labels, unique, strict=True))

        locations: dict[str, Location | None] = dict.fromkeys(unique)
        for node, group in groups.items():
            location = self._location(node)
            if location is not None:
                locations[names[group]] = location

        links: list[DraftLink] = []
        for (start, end), pair in self._pairs(groups).items():
            link = self._link(names[start], names[end], pair, locations)
            links.append(link)

        if len(groups) > len(labels):
            self.assumed.append("datacenters: one for each group of nodes")
        defaults: dict[str, Any] = {}
        if any("delay" not in link.settings for link in links):
            defaults["detour"] = self.options.detour
        return Draft(
            source=f"containerlab, {len(groups)} nodes, {len(links)} links",
            datacenters=locations,
            links=links,
            defaults=defaults,
            notes=[*renamed, *self.notes],
            assumed=self.assumed,
        )

    def _error(self, what: str, loc: Loc, remedy: str = "") -> InputError:
        return InputError(what, place=yaml_reader.place_of(self.source, loc), remedy=remedy)

    def _labels(self, owner: Any) -> Section:
        labels = owner.get("labels") if isinstance(owner, Section) else None
        return labels if isinstance(labels, Section) else Section()

    def _group(self, node: str) -> str:
        """Return the name of a node's datacenter."""
        settings = self.nodes[node]
        labels = self._labels(settings)
        for name in GROUP_LABELS:
            if labels.get(name):
                return str(labels[name])

        group = settings.get("group") if isinstance(settings, Section) else None
        return str(group) if group else node

    def _location(self, node: str) -> Location | None:
        labels = self._labels(self.nodes[node])
        loc = ("topology", "nodes", node, "labels")
        try:
            if labels.get("location"):
                return locate(str(labels["location"]))
            if NORTH in labels and EAST in labels:
                return float(labels[NORTH]), float(labels[EAST])
        except UnitError as error:
            raise self._error(error.what, (*loc, "location"), error.remedy) from error
        except (TypeError, ValueError) as error:
            raise self._error("not a position in degrees", (*loc, NORTH)) from error
        return None

    def _pairs(self, groups: dict[str, str]) -> dict[tuple[str, str], _Pair]:
        """Return the links between datacenters, by their ends."""
        links = self.source["topology"].get("links")
        pairs: dict[tuple[str, str], _Pair] = {}
        within: list[str] = []
        outside: list[str] = []
        for index, link in enumerate(links if isinstance(links, Items) else []):
            loc: Loc = ("topology", "links", index)
            nodes = list(self._endpoints(link, loc))
            if len(nodes) < 2 or any(node in OUTSIDE for node in nodes):
                outside.append("-".join(nodes))
                continue

            ends = self._known_groups(nodes, groups, loc)
            if ends[0] == ends[1]:
                within.append("-".join(nodes))
                continue

            if ends[::-1] in pairs:
                ends = ends[::-1]
            pair = pairs.setdefault(ends, _Pair())
            pair.values.append(self._values(link, loc))

        if within:
            self.notes.append(f"left out as links within a datacenter: {listed(within)}")
        if outside:
            self.notes.append(f"left out as links to the host: {listed(outside)}")
        return pairs

    def _known_groups(self, nodes: list[str], groups: dict[str, str], loc: Loc) -> tuple[str, str]:
        for node in nodes:
            if node not in groups:
                raise self._error(f"unknown node {node!r}", loc, suggest(node, groups, "nodes"))
        return groups[nodes[0]], groups[nodes[1]]

    def _endpoints(self, link: Any, loc: Loc) -> Iterator[str]:
        """Yield the nodes of a link, of text such as ``leaf1:eth1`` or of mappings."""
        if not isinstance(link, Section):
            raise self._error("a link must be a mapping with endpoints", loc)

        endpoints = link.get("endpoints")
        if endpoints is None and link.get("endpoint") is not None:
            endpoints = [link["endpoint"]]
        if not isinstance(endpoints, list) or not 1 <= len(endpoints) <= 2:
            what = "a link needs two endpoints"
            raise self._error(what, loc, 'such as ["leaf1:eth1", "leaf2:eth1"]')

        for endpoint in endpoints:
            if isinstance(endpoint, Section):
                yield str(endpoint.get("node", ""))
            else:
                yield str(endpoint).partition(":")[0]

    def _values(self, link: Section, loc: Loc) -> dict[str, Fraction]:
        """Return the labels and variables of a link in base units; note others as left out."""
        values: dict[str, Fraction] = {}
        for section in LINK_SECTIONS:
            texts = link.get(section)
            if not isinstance(texts, Section):
                continue
            for key, value in texts.items():
                heading = read_heading(str(key))
                name = _setting_of(heading)
                if name is None:
                    self._leave_out(f"{section}.{key}")
                elif name not in values and str(value).strip():
                    text = str(value).strip()
                    values[name] = self._value(name, heading, text, (*loc, section, str(key)))
        return values

    def _value(self, name: str, heading: Heading, text: str, loc: Loc) -> Fraction:
        """Return the value of a label in base units; the delay of a round trip is its half."""
        quantity = QUANTITIES[name]
        if is_plain_number(text):
            unit = heading.unit
            if unit is None and heading.text == name and name in NETEM_UNITS:
                unit = NETEM_UNITS[name]
                assumption = f"labels of {name} without a unit: {unit}, as of containerlab's netem"
                if assumption not in self.assumed:
                    self.assumed.append(assumption)
            text = text if unit is None else f"{text} {unit}"

        try:
            value = quantity.exact(with_usual_unit(text, quantity))
        except UnitError as error:
            raise self._error(error.what, loc, error.remedy) from error
        is_round_trip = bool(set(heading.words) & ROUND_TRIP_WORDS) and not heading.says_half
        return value / 2 if is_round_trip else value

    def _leave_out(self, label: str) -> None:
        note = f"left out because unknown: {label} of links"
        if note not in self.notes:
            self.notes.append(note)

    def _link(
        self, start: str, end: str, pair: _Pair, locations: dict[str, Location | None]
    ) -> DraftLink:
        link = f"{start}-{end}"
        settings: dict[str, Any] = {}
        rates = [values.get("rate") for values in pair.values]
        if any(rates):
            total = sum(self.options.rate if rate is None else round(rate) for rate in rates)
            settings["rate"] = format_rate(total)

        delay = pair.largest("delay")
        if delay is not None:
            settings["delay"] = format_time(round(delay))
        elif None in (locations[start], locations[end]):
            settings["delay"] = format_time(self._default_delay(link))

        jitter = pair.largest("jitter")
        if jitter is not None:
            settings["jitter"] = format_time(round(jitter))
        percent = pair.largest("loss")
        if percent is not None:
            settings["loss"] = format_probability(float(percent / 100))

        if len(pair.values) > 1:
            self.notes.append(f"parallel links were merged into one: {link}")
        return DraftLink((start, end), settings, rate_assumed=None in rates)

    def _default_delay(self, link: str) -> int:
        if self.options.delay is None:
            what = "unknown delay: the link has no label delay, and an end no location"
            place = Place(self.path, link)
            raise InputError(what, place=place, remedy="use --delay, such as --delay '5 ms'")

        assumption = f"delay: {format_time(self.options.delay)} for links without one"
        if assumption not in self.assumed:
            self.assumed.append(assumption)
        return self.options.delay
