"""The draft of a topology that the readers of other formats return, and shared helpers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.core.errors import InputError, Place
from testbed.core.geo import DETOUR, Location
from testbed.spec.topology import MAX_DATACENTERS

SHOWN = 12  # maximum number of names in a note
LONGEST_NAME = 63  # characters
LONGEST_BASE = 59  # of a name before its number
DEFAULT_RATE = 10_000_000_000


@dataclass(frozen=True)
class ImportOptions:
    """Values for topologies that the imported file does not have.

    Attributes:
        name: Name of the topology; None: derived from the file name.
        rate: Rate of links without one, in bit/s.
        delay: One-way delay of links whose ends have no position, in ns.
        detour: Ratio of fibre length to great-circle distance.
        hosts: Number of hosts in each datacenter.
        bandwidth: A second CSV file, with rates.
        bandwidth_unit: Unit of the rates in `bandwidth`, unless the file names one.
    """

    name: str | None = None
    rate: int = DEFAULT_RATE
    delay: int | None = None
    detour: float = DETOUR
    hosts: int = 1
    bandwidth: Path | None = None
    bandwidth_unit: str | None = None


@dataclass(frozen=True)
class DraftLink:
    """A link between two datacenters.

    Attributes:
        ends: Names of the two datacenters.
        settings: Settings of the link, as written in a topology file.
        rate_assumed: Whether the file lacks the rate, or the rate of one of several cables.
    """

    ends: tuple[str, str]
    settings: dict[str, Any]
    rate_assumed: bool


@dataclass
class Draft:
    """The contents of an imported file.

    Attributes:
        source: Description of the file.
        datacenters: Location of each datacenter, by name; None if unknown.
        links: All links.
        defaults: Settings of all links.
        top: Other keys of the topology.
        notes: Omissions and changes.
        assumed: Assumptions in addition to the options.
        of_datacenters: Settings of each datacenter by name; None if the file says nothing of hosts.
    """

    source: str
    datacenters: dict[str, Location | None]
    links: list[DraftLink]
    defaults: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    of_datacenters: dict[str, dict[str, Any]] | None = None


def check_number(path: Path, datacenters: int) -> None:
    """Check that a topology can have as many datacenters as the file.

    Raises:
        InputError: The file `path` has too many datacenters.
    """
    if datacenters > MAX_DATACENTERS:
        what = f"too many datacenters: {datacenters} (at most {MAX_DATACENTERS})"
        raise InputError(what, place=Place(path))


def valid_name(label: str) -> str:
    """Return a valid datacenter name from `label`; empty without usable characters."""
    decomposed = unicodedata.normalize("NFKD", label)
    ascii_bytes = decomposed.encode("ascii", "ignore")
    plain = ascii_bytes.decode().lower()
    name = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    if name and not name[0].isalpha():
        name = f"n{name}"
    return name[:LONGEST_NAME].rstrip("-")


def unique_names(labels: Iterable[str], fallback: str = "node") -> tuple[list[str], list[str]]:
    """Return a different valid name for each label.

    Args:
        labels: Names of the datacenters in the file.
        fallback: Name for a label without usable characters.

    Returns:
        The names, and notes on names that differ from their label.
    """
    names: list[str] = []
    changed: list[str] = []
    for label in labels:
        base = valid_name(label) or fallback
        name = base
        number = 1
        while name in names:
            number += 1
            name = f"{base[:LONGEST_BASE]}-{number}"

        if number > 1 or not valid_name(label):
            changed.append(f"{name} is {label!r}")
        names.append(name)

    if not changed:
        return names, []
    return names, [f"renamed datacenters (name taken or not valid): {listed(changed)}"]


def listed(names: Iterable[str]) -> str:
    """Return the first few names as text, with the number of remaining names."""
    all_names = list(names)
    shown = ", ".join(all_names[:SHOWN])
    more = len(all_names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
