"""Topologies from other formats: GraphML of the Internet Topology Zoo, and CSV tables of round-trip
times.

A reader makes a `Draft` of a file; `convert` makes a topology of it, and a comment that says where
it came from and what was assumed.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from testbed.core.errors import InputError, Place
from testbed.core.units import format_rate
from testbed.spec.importers import csv_table
from testbed.spec.importers.draft import Draft, Options, read_bytes, valid_name
from testbed.spec.topology import Topology

__all__ = ["Imported", "Options", "convert"]

COMMENT_COLUMNS = 118


class Imported(NamedTuple):
    """A topology that was made of another format, and the text of its file."""

    topology: Topology
    text: str


def convert(path: Path, options: Options) -> Imported:
    """The topology that the GraphML or CSV file `path` describes.

    Raises:
        InputError: the file cannot be read, is neither, or makes no topology; names the line, cell,
            node or edge.
    """
    content = read_bytes(path)
    is_graphml, is_table = (
        path.suffix.lower() in (".graphml", ".xml"),
        path.suffix.lower() in (".csv", ".tsv", ".txt"),
    )
    if not (is_graphml or is_table):
        remedy = (
            "the name of GraphML ends in .graphml or .xml, that of a table in .csv, .tsv or .txt"
        )
        raise InputError("its name says neither GraphML nor CSV", place=Place(path), remedy=remedy)
    if is_graphml:
        from testbed.spec.importers import graphml  # noqa: PLC0415 (networkx takes 0.15 s to import)

        draft = graphml.read(path, content, options)
    else:
        draft = csv_table.read(path, content, options)
    try:
        topology = _topology(
            draft, options.name or valid_name(path.stem) or "imported", path.name, options
        )
    except InputError as error:
        key = (error.place.key or "").removeprefix(f"{Topology.__name__}.")
        raise InputError(error.what, place=Place(path, key), remedy=error.remedy) from error
    return Imported(topology, _comment(draft, path.name, options) + topology.to_yaml())


def _topology(draft: Draft, name: str, file: str, options: Options) -> Topology:
    defaults: dict[str, Any] = {"datacenter": {"hosts": options.hosts}}
    rate = (
        {}
        if all("rate" in link.settings for link in draft.links)
        else {"rate": format_rate(options.rate)}
    )
    if rate or draft.defaults:
        defaults["wan"] = rate | draft.defaults
    return Topology(
        name=name,
        description=f"{len(draft.datacenters)} datacenters, imported from {file}",
        datacenters={
            name: {} if at is None else {"location": at} for name, at in draft.datacenters.items()
        },
        wan=[{"between": link.ends, **link.settings} for link in draft.links],
        defaults=defaults,
        **draft.top,
    )


def _comment(draft: Draft, file: str, options: Options) -> str:
    """Where the topology came from, what was assumed, what was left out."""
    assumed = [f"hosts: {options.hosts} in each datacenter, with the default NIC", *draft.assumed]
    without = sum(link.rate_assumed for link in draft.links)
    if without:
        links = f"{without} of {len(draft.links)} links"
        assumed.append(f"rate: {format_rate(options.rate)} for {links}, as the file gives none")
    paragraphs = [
        f"Imported from {file}: {draft.source}.",
        *(f"Assumed: {text}." for text in assumed),
        *(f"Note: {text}." for text in draft.notes),
    ]
    lines = [
        line for text in paragraphs for line in textwrap.wrap(_printable(text), COMMENT_COLUMNS)
    ]
    return "".join(f"# {line}\n" for line in lines)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
