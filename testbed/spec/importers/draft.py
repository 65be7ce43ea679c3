"""The draft of a topology that every reader of another format makes, and the readers' helpers."""

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

SHOWN = 12  # names in a note
LONGEST_NAME = 63  # characters
LONGEST_BASE = 59  # of a name that gets a number
DEFAULT_RATE = 10_000_000_000


@dataclass(frozen=True)
class Options:
    """What the user adds to the file.

    Attributes:
        name: The name of the topology; None takes the name of the file.
        rate: The rate of links without one, in bit/s.
        delay: The delay, one way, of links whose ends have no position, in ns.
        detour: The length of fibre over that of the great circle.
        hosts: The hosts of each datacenter.
        bandwidth: A second CSV file, with rates.
        bandwidth_unit: The unit of rates in `bandwidth`, unless the file names one.
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
        ends: The names of the datacenters.
        settings: The settings of the link, as written in a topology file.
        rate_assumed: Whether the file leaves the rate open, or that of one of several cables.
    """

    ends: tuple[str, str]
    settings: dict[str, Any]
    rate_assumed: bool


@dataclass
class Draft:
    """What a file says.

    Attributes:
        source: What the file is, in words.
        datacenters: The location of each datacenter, by name, if known.
        links: All links.
        defaults: Settings of all links.
        top: Other keys of the topology.
        notes: What was left out or changed.
        assumed: What was assumed, beyond the options.
    """

    source: str
    datacenters: dict[str, Location | None]
    links: list[DraftLink]
    defaults: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", place=Place(path)) from error


def check_number(path: Path, datacenters: int) -> None:
    """Check that a topology can have so many datacenters.

    Raises:
        InputError: The file `path` has more.
    """
    if datacenters > MAX_DATACENTERS:
        what = f"too many datacenters: {datacenters} (at most {MAX_DATACENTERS})"
        raise InputError(what, place=Place(path))


def valid_name(label: str) -> str:
    """Make the name of a datacenter of `label`; empty if nothing of the label can stand in one."""
    decomposed = unicodedata.normalize("NFKD", label)
    ascii_bytes = decomposed.encode("ascii", "ignore")
    plain = ascii_bytes.decode().lower()
    name = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    if name and not name[0].isalpha():
        name = f"n{name}"
    return name[:LONGEST_NAME].rstrip("-")


def unique_names(labels: Iterable[str], fallback: str = "node") -> tuple[list[str], list[str]]:
    """Make a different valid name of each label.

    Args:
        labels: What the file calls its datacenters.
        fallback: The name of a label that has nothing to make a name of.

    Returns:
        The names, and notes on names that do not show their label.
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
    """List the first few names, and say how many more there are."""
    all_names = list(names)
    shown = ", ".join(all_names[:SHOWN])
    more = len(all_names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
