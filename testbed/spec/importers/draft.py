"""What every reader of another format makes, and what they share: names, notes, reading text."""

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
DEFAULT_RATE = 10_000_000_000


@dataclass(frozen=True)
class Options:
    """What the user adds to the file. `rate` in bit/s and `delay` (one way) in ns are those of
    links without one.

    `bandwidth` is a second CSV file, with rates; numbers in it have the unit `bandwidth_unit`
    unless it names one.
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
    """A link between two datacenters, with settings as they are written in a topology file.

    `rate_assumed`: the file does not give its rate, or only that of a part; left out, it is that of
    the options.
    """

    ends: tuple[str, str]
    settings: dict[str, Any]
    rate_assumed: bool


@dataclass
class Draft:
    """What a file says: `source` in words; `notes` on what was left out or changed; `assumed`
    beyond the options.
    """

    source: str
    datacenters: dict[str, Location | None]
    links: list[DraftLink]
    defaults: dict[str, Any] = field(default_factory=dict)  # of the links
    top: dict[str, Any] = field(default_factory=dict)  # keys of the topology
    notes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def read_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", place=Place(path)) from error


def check_number(path: Path, datacenters: int) -> None:
    """Raise InputError if a topology cannot have so many datacenters."""
    if datacenters > MAX_DATACENTERS:
        what = f"it has {datacenters} datacenters; a topology may have at most {MAX_DATACENTERS}"
        raise InputError(what, place=Place(path))


def valid_name(label: str) -> str:
    """`label` as the name of a datacenter: lower-case letters, digits and hyphens; empty if nothing
    of it is left.
    """
    plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    name = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    if name and not name[0].isalpha():
        name = f"n{name}"
    return name[:63].rstrip("-")


def unique_names(labels: Iterable[str], fallback: str = "node") -> tuple[list[str], list[str]]:
    """A valid name for each label, all different, and notes on those that are not plainly their
    label.
    """
    names: list[str] = []
    notes = []
    for label in labels:
        base = valid_name(label) or fallback
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base[:59]}-{number}"
        if number > 1 or not valid_name(label):
            notes.append(f"{name} is {label!r}")
        names.append(name)
    return names, [f"names that were taken or unusable: {listed(notes)}"] if notes else []


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more
