"""Turn GraphML, tables of RTTs, files of containerlab and InfraGraph into topology files.

A reader turns a file into a `Draft`. `convert` turns the draft into a topology file, with a comment
on the origin of the topology and the assumptions.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from testbed.core.errors import InputError, Place, reading
from testbed.core.table_files import read_file
from testbed.core.units import format_rate
from testbed.spec import yaml_reader
from testbed.spec.importers import containerlab, csv_table, infragraph
from testbed.spec.importers.draft import Draft, ImportOptions, valid_name
from testbed.spec.topology import Topology

__all__ = ["ImportOptions", "Imported", "convert"]

COMMENT_COLUMNS = 118
GRAPHML_SUFFIXES = (".graphml", ".xml")
YAML_SUFFIXES = (".yml", ".yaml", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")


class Imported(NamedTuple):
    """A topology converted from another format, and the text of its file."""

    topology: Topology
    text: str


def convert(path: Path, options: ImportOptions) -> Imported:
    """Convert a GraphML file, a table or a file of containerlab or InfraGraph to a topology.

    Args:
        path: The file.
        options: Values that the file does not have.

    Raises:
        InputError: The file cannot be read or converted to a topology; the message names the line,
            cell, node or edge.
    """
    with reading(path):
        draft = _read(path, options)
    name = options.name or valid_name(path.stem.removesuffix(".clab")) or "imported"
    try:
        topology = _topology(draft, name, path.name, options)
    except InputError as error:
        key = (error.place.key or "").removeprefix(f"{Topology.__name__}.")
        raise InputError(error.what, place=Place(path, key), remedy=error.remedy) from error

    comment = _comment(draft, path.name, options)
    return Imported(topology, comment + topology.to_yaml())


def _read(path: Path, options: ImportOptions) -> Draft:
    content = read_file(path)
    suffix = path.suffix.lower()
    if suffix in YAML_SUFFIXES:
        source = yaml_reader.load(path)
        if infragraph.is_infragraph(source):
            return infragraph.read(path, source, options)
        if suffix == ".json":
            what = "not a file of InfraGraph: it needs lists of devices, instances and edges"
            raise InputError(what, place=Place(path))
        return containerlab.read(path, source, options)

    if suffix in GRAPHML_SUFFIXES:
        from testbed.spec.importers import graphml  # noqa: PLC0415 (networkx takes 0.15 s to import)

        return graphml.read(path, content, options)

    if suffix in TABLE_SUFFIXES:
        return csv_table.read(path, content, options)
    raise InputError(
        "unknown file extension",
        place=Place(path),
        remedy="use .graphml or .xml for GraphML, .csv, .tsv or .txt for tables, .clab.yml for "
        "containerlab, and .yaml or .json for InfraGraph",
    )


def _topology(draft: Draft, name: str, file: str, options: ImportOptions) -> Topology:
    """Return the topology of a draft; `file` is the name of the draft's source file."""
    link_defaults: dict[str, Any] = {}
    have_rates = all("rate" in link.settings for link in draft.links)
    if not have_rates:
        link_defaults["rate"] = format_rate(options.rate)
    link_defaults.update(draft.defaults)

    defaults: dict[str, Any] = {}
    if draft.of_datacenters is None:
        defaults["datacenter"] = {"hosts": options.hosts}
    if link_defaults:
        defaults["wan"] = link_defaults

    datacenters: dict[str, Any] = {}
    for datacenter, location in draft.datacenters.items():
        own = (draft.of_datacenters or {}).get(datacenter, {})
        datacenters[datacenter] = own if location is None else {**own, "location": location}

    wan: list[dict[str, Any]] = []
    for link in draft.links:
        wan.append({"between": link.ends, **link.settings})

    settings: dict[str, Any] = {
        "name": name,
        "description": f"{len(draft.datacenters)} datacenters, imported from {file}",
        "datacenters": datacenters,
        "wan": wan,
        "defaults": defaults,
        **draft.top,
    }
    return Topology(**settings)


def _comment(draft: Draft, file: str, options: ImportOptions) -> str:
    """Return a comment on the origin of the topology, the assumptions and the omissions."""
    assumed = list(draft.assumed)
    if draft.of_datacenters is None:
        assumed.insert(0, f"hosts: {options.hosts} in each datacenter, with the default NIC")
    without_rate = sum(link.rate_assumed for link in draft.links)
    if without_rate:
        rate = format_rate(options.rate)
        links = f"{without_rate} of {len(draft.links)} links"
        assumed.append(f"rate: {rate} for {links} (not in the file)")

    paragraphs = [f"Imported from {file}: {draft.source}."]
    paragraphs += [f"Assumed: {text}." for text in assumed]
    paragraphs += [f"Note: {text}." for text in draft.notes]

    lines: list[str] = []
    for paragraph in paragraphs:
        lines += textwrap.wrap(_printable(paragraph), COMMENT_COLUMNS)
    return "".join(f"# {line}\n" for line in lines)


def _printable(text: str) -> str:
    characters = [letter if letter.isprintable() else " " for letter in text]
    return "".join(characters)
