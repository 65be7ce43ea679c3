"""testbed topo: look at topologies."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed.cli.options import Format, FormatOption, SetOption, TopologyArgument
from testbed.cli.output import wide_console
from testbed.core.csv_text import csv_text as core_csv_text
from testbed.core.units import format_probability, format_rate, format_time
from testbed.plan.model import Datacenter, Direction, Network, WanLink
from testbed.plan.resolve import resolve_network
from testbed.spec import topology as topology_spec
from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import TOPOLOGIES

MOST_CHANGES = 30
app = typer.Typer(help="Look at topologies, and deploy networks that stay.", no_args_is_help=True)


def load(name: str, sets: list[str]) -> topology_spec.Topology:
    """A topology with ``--set`` overrides (the prefix ``topology.`` may be left out)."""
    return topology_spec.Topology.load(name, parse_overrides(sets, ["topology"])["topology"])


@app.command("list")
def list_presets(output: FormatOption = Format.TABLE) -> None:
    """List the presets: hosts, links, RTTs."""
    rows = [
        _row(preset.name, preset.description, resolve_network(load(str(preset.path), [])))
        for preset in TOPOLOGIES.presets()
    ]
    if output is Format.JSON:
        typer.echo(json.dumps(rows, indent=2))
        return
    if output is Format.CSV:
        typer.echo(csv_text(rows))
        return
    table = Table(
        "name", "DCs", "hosts", "links", "RTT (ms)", "description", box=None, pad_edge=False
    )
    for row in rows:
        rtts = dict.fromkeys(
            f"{row[key]:.3g}" for key in ("rtt_ms_min", "rtt_ms_max") if row[key] is not None
        )
        rtt = " - ".join(rtts) or "-"
        table.add_row(
            row["name"],
            str(row["datacenters"]),
            str(row["hosts"]),
            str(row["links"]),
            rtt,
            row["description"],
        )
    wide_console().print(table)


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Rows of the same keys as CSV with a head line."""
    cells = [list(row.values()) for row in rows]
    return core_csv_text(list(rows[0]), cells)


def _row(name: str, description: str, network: Network) -> dict[str, Any]:
    rtts = [rtt_ms(network, a.name, b.name) for a, b in combinations(network.datacenters, 2)]
    return {
        "name": name,
        "datacenters": len(network.datacenters),
        "hosts": len(network.hosts),
        "links": len(network.wan),
        "rtt_ms_min": min(rtts, default=None),
        "rtt_ms_max": max(rtts, default=None),
        "description": description,
    }


def rtt_ms(network: Network, a: str, b: str) -> float:
    """RTT of the WAN between two datacenters: the fibres' delays there and back."""
    steps = (*network.path(a, b), *network.path(b, a))
    return sum(step.fibre.delay_ns for step in steps) / 1e6


@app.command()
def show(
    topology: TopologyArgument, sets: SetOption = [], output: FormatOption = Format.TABLE
) -> None:  # noqa: B006 (typer copies it)
    """Show what a topology becomes: its datacenters and links, in full."""
    network = resolve_network(load(topology, sets))
    if output is Format.JSON:
        typer.echo(network.model_dump_json(indent=2))
        return
    links = [_link_row(link, way) for link in network.wan for way in link.directions]
    if output is Format.CSV:
        typer.echo(csv_text(links) if links else "")
        return
    console = wide_console()
    sites = Table(
        "datacenter", "hosts", "subnet", "NIC", "fabric", "location", box=None, pad_edge=False
    )
    for dc in network.datacenters:
        nic = network.host(dc.hosts[0]).nic_up
        place = "-" if dc.location is None else f"{dc.location[0]:.2f}, {dc.location[1]:.2f}"
        sites.add_row(
            dc.name,
            str(len(dc.hosts)),
            str(dc.subnet),
            format_rate(nic.rate_bps),
            _fabric(dc),
            place,
        )
    console.print(sites)
    columns = (
        "from",
        "to",
        "rate",
        "one-way delay",
        "jitter",
        "loss",
        "queue (packets)",
        "discipline",
    )
    table = Table(*columns, box=None, pad_edge=False)
    for row in links:
        marks = " with marks" if row["ecn"] else ""
        values = [row[name] for name in ("from", "to", "rate", "delay", "jitter")]
        loss = format_probability(row["loss"], digits=3) + (" in bursts" if row["bursts"] else "")
        table.add_row(*values, loss, str(row["queue_packets"]), row["discipline"] + marks)
    if links:
        console.print()
        console.print(table)
    if network.changes:
        console.print()
        console.print(_changes(network))


def _changes(network: Network) -> Table:
    """What happens to the links during a run, at most `MOST_CHANGES` lines."""
    table = Table("at", "what happens", box=None, pad_edge=False)
    for change in network.changes[:MOST_CHANGES]:
        table.add_row(format_time(change.at_ns), "; ".join(change.what))
    if len(network.changes) > MOST_CHANGES:
        table.add_row("", f"and {len(network.changes) - MOST_CHANGES} more (-f json has them all)")
    return table


def _fabric(dc: Datacenter) -> str:
    if dc.fabric is None:
        return "switch"
    uplink = format_rate(dc.fabric.cables[0].port.rate_bps)
    return f"{len(dc.segments)} leaves, {len(dc.fabric.spines)} spines at {uplink}"


def _link_row(link: WanLink, way: Direction) -> dict[str, Any]:
    loss = way.fibre.loss
    bursts = loss.model == "gilbert-elliott"
    return {
        "link": link.key,
        "from": way.source,
        "to": way.target,
        "rate": format_rate(way.bottleneck.rate_bps),
        "delay": format_time(way.fibre.delay_ns, digits=4),
        "jitter": format_time(way.fibre.jitter_ns, digits=3) if way.fibre.jitter_ns else "0",
        "queue_packets": way.bottleneck.queue_packets,
        "discipline": way.bottleneck.discipline,
        "ecn": way.bottleneck.ecn,
        "loss": loss.mean,
        "bursts": bursts,
    }


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="topology files, or names of presets")],
) -> None:
    """Check topology files; nothing is started."""
    for file in files:
        network = resolve_network(load(str(file), []))
        typer.echo(
            f"{file}: ok, {len(network.hosts)} hosts in {len(network.datacenters)} datacenters"
        )
