"""testbed topo schema, reference, import: the topology language for editors and for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.files import check_ending
from testbed.core.errors import InputError, Place
from testbed.core.geo import DETOUR, MAX_DETOUR
from testbed.core.units import UnitError, parse_rate, parse_time
from testbed.spec.docs.reference import reference as page
from testbed.spec.importers import ImportOptions, convert
from testbed.spec.topology import MAX_HOSTS, Topology


def schema() -> None:
    """Print the JSON schema of topology files, for editors."""
    typer.echo(json.dumps(Topology.json_schema(), indent=2))


def reference() -> None:
    """Print the reference of topology files: keys, units, defaults and meanings (Markdown)."""
    typer.echo(page())


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="GraphML, table of RTTs, .clab.yml, or file of InfraGraph",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FILE",
            help="topology file to create \\[default: standard output]",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="name of the topology \\[default: from the file name]"),
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="RATE", help="rate of links without one in the file")
    ] = "10 Gbit/s",
    delay: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="GraphML: one-way delay of links to nodes without a position, such as 5 ms",
        ),
    ] = None,
    detour: Annotated[
        float,
        typer.Option(
            min=1,
            max=MAX_DETOUR,
            metavar="FACTOR",
            help="GraphML: ratio of fibre length to great-circle distance",
        ),
    ] = DETOUR,
    hosts: Annotated[
        int,
        typer.Option(min=1, max=MAX_HOSTS, metavar="N", help="number of hosts in each datacenter"),
    ] = 1,
    bandwidth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV matrix of rates, in addition to a matrix of RTTs"),
    ] = None,
    bandwidth_unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="unit of rates whose file names none, such as Gbit/s",
        ),
    ] = None,
) -> None:
    """Convert GraphML, a table of RTTs or a containerlab file to a topology file.

    A comment in the file lists what was assumed and what was left out.
    """
    if out is not None:
        check_ending(out, (".yaml", ".yml"), "--out")
    delay_ns = None
    if delay is not None:
        delay_ns = _read(parse_time, delay, "--delay")
    options = ImportOptions(
        name=name,
        rate=_read(parse_rate, rate, "--rate"),
        delay=delay_ns,
        detour=detour,
        hosts=hosts,
        bandwidth=bandwidth,
        bandwidth_unit=bandwidth_unit,
    )
    topology, text = convert(file, options)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as target:
            target.write(text)
    except OSError as error:
        raise InputError(f"cannot write the file: {error.strerror}", place=Place(out)) from error
    typer.echo(f"{out}: {len(topology.datacenters)} datacenters, {len(topology.links)} links")


def _read(parse: Callable[[object], int], text: str, option: str) -> int:
    """Return the quantity in the value of `option`, in base units."""
    try:
        return parse(text)
    except UnitError as error:
        raise InputError(error.what, place=Place(option), remedy=error.remedy) from error
