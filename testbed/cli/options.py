"""Options that several commands share. Each has an environment variable."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from testbed.core.errors import InputError, Place
from testbed.core.units import parse_size


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Clock(StrEnum):
    """Which clock the guest has."""

    VIRTUAL = "virtual"
    REAL = "real"


class Where(StrEnum):
    """Which kernel carries a run."""

    GUEST = "guest"
    HERE = "here"


class Isolation(StrEnum):
    """What a host is."""

    CONTAINER = "container"
    PROCESS = "process"


class EventsFrom(StrEnum):
    """From which moment of a script's rank 0 on the topology's events count."""

    OPERATION = "operation"
    START = "start"


class Capture(StrEnum):
    """Where packets are captured."""

    NONE = "none"
    WAN = "wan"
    ALL = "all"


Topology = Annotated[
    str, typer.Argument(help="a preset (testbed topo list) or the path of a topology file")
]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="change one value: topology.KEY or workload.KEY; may be repeated",
    ),
]
FormatOption = Annotated[
    Format, typer.Option("-f", "--format", envvar="TESTBED_FORMAT", help="how to print the result")
]
Out = Annotated[
    Path | None,
    typer.Option(
        envvar="TESTBED_OUT",
        help="the run folder; must not exist \\[default: results/<time>-<names>]",
    ),
]


def memory_size(text: str, option: str) -> int:
    """The bytes that `option` asks for.

    Raises:
        InputError: not a size with a unit.
    """
    try:
        return parse_size(text)
    except ValueError as error:
        raise InputError(str(error), place=Place(key=option)) from error
