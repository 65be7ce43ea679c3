"""testbed topo: list, show and check topologies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed.cli.options import (
    TOPOLOGY_TARGETS,
    Format,
    FormatOption,
    TopologyArgument,
    TopologySetOption,
)
from testbed.cli.output import csv_of_rows, wide_console
from testbed.core.units import format_probability, format_rate, format_time
from testbed.plan.model import Datacenter, Direction, Network, WanLink
from testbed.plan.resolve import resolve_network
from testbed.spec.overrides import parse_overrides
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology

MOST_CHANGES = 30
NS_PER_MS = 1e6
app = typer.Typer(
    help="Inspect topologies, and manage persistent deployments.", no_args_is_help=True
)


def load(name: str, sets: list[str]) -> Topology:
    """Load a topology with ``--set`` overrides; their prefix ``topology.`` is optional."""
    return Topology.load(name, parse_overrides(sets, TOPOLOGY_TARGETS)["topology"])


@dataclass(frozen=True)
class PresetRow:
    """A preset in the list: its size, and the smallest and largest RTT between datacenters."""

    name: str
    datacenters: int
    hosts: int
    links: int
    rtt_ms_min: float | None
    rtt_ms_max: float | None
    description: str

    @classmethod
    def of(cls, name: str, description: str, network: Network) -> PresetRow:
        """Return the row of a preset, from its network.

        Args:
            name: Name of the preset.
            description: The preset's one-line description.
            network: The network to count hosts and links of.
        """
        pairs = combinations(network.datacenters, 2)
        rtts = [rtt_ms(network, first.name, second.name) for first, second in pairs]
        return cls(
            name=name,
            datacenters=len(network.datacenters),
            hosts=len(network.hosts),
            links=len(network.wan),
            rtt_ms_min=min(rtts, default=None),
            rtt_ms_max=max(rtts, default=None),
            description=description,
        )

    def cells(self) -> list[str]:
        """Return the cells of the row for people."""
        return [
            self.name,
            str(self.datacenters),
            str(self.hosts),
            str(self.links),
            self._rtt_range(),
            self.description,
        ]

    def _rtt_range(self) -> str:
        if self.rtt_ms_min is None or self.rtt_ms_max is None:
            return "-"

        least = f"{self.rtt_ms_min:.3g}"
        largest = f"{self.rtt_ms_max:.3g}"
        return least if least == largest else f"{least} - {largest}"


@app.command("list")
def list_presets(output: FormatOption = Format.TABLE) -> None:
    """List the presets with their hosts, links and RTTs."""
    rows: list[PresetRow] = []
    for preset in TOPOLOGIES.presets():
        topology = load(str(preset.path), [])
        network = resolve_network(topology)
        rows.append(PresetRow.of(preset.name, preset.description, network))

    documents = [asdict(row) for row in rows]
    if output is Format.JSON:
        typer.echo(json.dumps(documents, indent=2))
        return
    if output is Format.CSV:
        typer.echo(csv_of_rows(documents))
        return

    table = _table("name", "DCs", "hosts", "links", "RTT (ms)", "description")
    for row in rows:
        table.add_row(*row.cells())
    wide_console().print(table)


def rtt_ms(network: Network, first: str, second: str) -> float:
    """Return the RTT of the WAN between two datacenters: fibre delays in both directions.

    Args:
        network: The network with the routes.
        first: Name of one datacenter.
        second: Name of the other datacenter.

    Returns:
        The RTT in ms.
    """
    there = network.path(first, second)
    back = network.path(second, first)
    delay_ns = 0
    for direction in (*there, *back):
        delay_ns += direction.fibre.delay_ns
    return delay_ns / NS_PER_MS


@app.command()
def show(
    topology: TopologyArgument,
    sets: TopologySetOption = [],  # noqa: B006 (typer copies it)
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the datacenters and links of a topology in full."""
    network = resolve_network(load(topology, sets))
    if output is Format.JSON:
        typer.echo(network.model_dump_json(indent=2))
        return

    links: list[dict[str, Any]] = []
    for link in network.wan:
        for direction in link.directions:
            links.append(_direction_row(link, direction))
    if output is Format.CSV:
        typer.echo(csv_of_rows(links))
        return

    tables = [_datacenters_table(network)]
    if links:
        tables.append(_links_table(links))
    if network.changes:
        tables.append(_changes_table(network))
    _print_tables(tables)


def _print_tables(tables: Sequence[Table]) -> None:
    """Print tables, separated by empty lines."""
    console = wide_console()
    for position, table in enumerate(tables):
        if position > 0:
            console.print()
        console.print(table)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _datacenters_table(network: Network) -> Table:
    table = _table("datacenter", "hosts", "subnet", "NIC", "fabric", "location")
    for datacenter in network.datacenters:
        nic = network.host(datacenter.hosts[0]).nic_up
        location = "-"
        if datacenter.location is not None:
            latitude, longitude = datacenter.location
            location = f"{latitude:.2f}, {longitude:.2f}"
        table.add_row(
            datacenter.name,
            str(len(datacenter.hosts)),
            str(datacenter.subnet),
            format_rate(nic.rate_bps),
            _fabric_text(datacenter),
            location,
        )
    return table


def _links_table(links: Sequence[dict[str, Any]]) -> Table:
    """Return a table with one row per link direction, from rows of `_direction_row`."""
    table = _table(
        "from", "to", "rate", "one-way delay", "jitter", "loss", "queue (packets)", "discipline"
    )
    for link in links:
        loss = format_probability(link["loss"], digits=3)
        if link["bursts"]:
            loss += " in bursts"
        discipline = link["discipline"]
        if link["ecn"]:
            discipline += " with marks"
        settings = [link[column] for column in ("from", "to", "rate", "delay", "jitter")]
        table.add_row(*settings, loss, str(link["queue_packets"]), discipline)
    return table


def _changes_table(network: Network) -> Table:
    """Return a table of the link changes during a run, with at most `MOST_CHANGES` rows."""
    table = _table("at", "what happens")
    for change in network.changes[:MOST_CHANGES]:
        table.add_row(format_time(change.at_ns), "; ".join(change.what))

    more = len(network.changes) - MOST_CHANGES
    if more > 0:
        table.add_row("", f"and {more} more (-f json has them all)")
    return table


def _fabric_text(datacenter: Datacenter) -> str:
    fabric = datacenter.fabric
    if fabric is None:
        return "switch"
    uplink_rate = format_rate(fabric.cables[0].port.rate_bps)
    return f"{len(datacenter.segments)} leaves, {len(fabric.spines)} spines at {uplink_rate}"


def _direction_row(link: WanLink, direction: Direction) -> dict[str, Any]:
    """Return the settings of one direction of a link, with units."""
    bottleneck = direction.bottleneck
    fibre = direction.fibre
    jitter = "0"
    if fibre.jitter_ns:
        jitter = format_time(fibre.jitter_ns, digits=3)
    return {
        "link": link.key,
        "from": direction.source,
        "to": direction.target,
        "rate": format_rate(bottleneck.rate_bps),
        "delay": format_time(fibre.delay_ns, digits=4),
        "jitter": jitter,
        "queue_packets": bottleneck.queue_packets,
        "discipline": bottleneck.discipline,
        "ecn": bottleneck.ecn,
        "loss": fibre.loss.mean,
        "bursts": fibre.loss.model == "gilbert-elliott",
    }


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="TOPOLOGY", help="topology files or presets")
    ],
) -> None:
    """Check topology files without starting anything."""
    for file in files:
        topology = load(str(file), [])
        network = resolve_network(topology)
        hosts = len(network.hosts)
        datacenters = len(network.datacenters)
        typer.echo(f"{file}: ok, {hosts} hosts in {datacenters} datacenters")
