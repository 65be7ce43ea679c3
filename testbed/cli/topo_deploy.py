"""testbed topo deploy, inspect, exec, shell, set, verify, destroy: networks that stay until they
are destroyed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from testbed.cli.options import (
    Clock,
    ClockOption,
    Format,
    FormatOption,
    SetOption,
    TopologyArgument,
)
from testbed.cli.output import wide_console
from testbed.cli.progress import display
from testbed.cli.topo import csv_text, load
from testbed.cli.topo_shell import Shell
from testbed.core.errors import InputError, Place
from testbed.core.units import (
    format_figure,
    format_probability,
    format_rate,
    format_time,
    parse_size,
)
from testbed.deployments import service as live
from testbed.deployments.client import answer, call
from testbed.deployments.folder import Deployment
from testbed.deployments.mailbox import Request
from testbed.deployments.reconfigure import change
from testbed.spec.base import suggest
from testbed.spec.overrides import parse_overrides

Target = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--target",
        metavar="NAME",
        envvar="TESTBED_DEPLOYMENT",
        help="the deployment \\[default: the only one]",
    ),
]
Seed = Annotated[
    int, typer.Option(envvar="TESTBED_SEED", min=0, help="of everything that is drawn")
]
GuestMemory = Annotated[
    str | None,
    typer.Option(
        envvar="TESTBED_GUEST_MEMORY", help="memory of the guest \\[default: from the plan]"
    ),
]


def deploy(
    topology: TopologyArgument,
    name: Annotated[
        str | None, typer.Option(help="of the deployment \\[default: the topology's]")
    ] = None,
    sets: SetOption = [],  # noqa: B006 (typer copies it)
    clock: ClockOption = "real",
    seed: Seed = 0,
    guest_memory: GuestMemory = None,
) -> None:
    """Build the network of a topology in a guest that stays until it is destroyed."""
    begin = time.monotonic()
    spec = load(topology, sets)
    made = _deploy(name or spec.name, spec, clock, seed, guest_memory)
    network = made.read_plan().network
    typer.echo(
        f"{made.name}: {len(network.hosts)} hosts in {len(network.datacenters)} datacenters stand after "
        f"{time.monotonic() - begin:.1f} s ({clock} clock)\n"
        f"  testbed topo exec -t {made.name} {network.hosts[0].name} -- ping -c3 {network.hosts[-1].address.ip}\n"
        f"  testbed topo shell -t {made.name}, inspect {made.name}, destroy {made.name}"
    )
    if network.changes:
        typer.echo(
            "  the events of its topology happen in runs; here testbed topo set changes links"
        )


def _deploy(name: str, spec: Any, clock: Clock, seed: int, guest_memory: str | None) -> Deployment:
    try:
        memory = None if guest_memory is None else parse_size(guest_memory)
    except ValueError as error:
        raise InputError(str(error), place=Place("--guest-memory")) from error
    with display() as progress:
        return live.deploy(
            name, spec, clock=clock, seed=seed, memory_bytes=memory, progress=progress
        )


def inspect(
    name: Annotated[
        str | None, typer.Argument(help="a deployment \\[default: a line for each]")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show what is deployed: state, clock, uptime; of one deployment also hosts, addresses and link
    settings.
    """
    asked = live.deployments() if name is None else [live.find(name, running=False)]
    found = [live.overview(deployment) for deployment in asked]
    if output is Format.JSON:
        typer.echo(json.dumps(found if name is None else found[0], indent=2))
    elif name is None:
        _print_rows([_summary(one) for one in found], output)
    elif output is Format.CSV:
        typer.echo(csv_text(_parts(found[0])))
    else:
        _print_one(found[0])


def _summary(one: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "state", "topology", "clock", "uptime_s", "virtual_s", "pid")
    return {key: one[key] for key in kept} | {
        "hosts": len(one["hosts"]),
        "links": len(one["links"]) // 2,
    }


def _parts(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Hosts and link directions of a deployment as rows of one table."""
    hosts = [
        {"kind": "host", "name": h["name"], "from": h["datacenter"], "address": h["address"]}
        for h in one["hosts"]
    ]
    links = [{"kind": "link", "name": link["link"], **link} for link in one["links"]]
    columns = dict.fromkeys(key for row in [*hosts, *links] for key in row if key != "link")
    return [{key: row.get(key) for key in columns} for row in [*hosts, *links]]


def _print_rows(rows: list[dict[str, Any]], output: Format) -> None:
    if output is Format.CSV:
        typer.echo(csv_text(rows) if rows else "")
    elif not rows:
        typer.echo("nothing is deployed")
    else:
        table = Table(*rows[0], box=None, pad_edge=False)
        for row in rows:
            table.add_row(*("-" if value is None else str(value) for value in row.values()))
        wide_console().print(table)


def _print_one(one: dict[str, Any]) -> None:
    _print_rows([_summary(one)], Format.TABLE)
    if one["reason"]:
        typer.echo(one["reason"])
    typer.echo("")
    _print_rows(one["hosts"], Format.TABLE)
    if one["links"]:
        typer.echo("")
        _print_rows([_readable(link) for link in one["links"]], Format.TABLE)


def _readable(link: dict[str, Any]) -> dict[str, Any]:
    return {
        "from": link["from"],
        "to": link["to"],
        "address": link["address"],
        "rate": format_rate(link["rate_bps"]),
        "delay": format_time(round(link["delay_ms"] * 1e6)),
        "jitter": format_time(round(link["jitter_ms"] * 1e6)),
        "loss": format_probability(link["loss"]),
        "queue (packets)": link["queue_packets"],
    }


def execute(
    host: Annotated[str, typer.Argument(help="a host, or a datacenter for its border router")],
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="what to run there")
    ],
    target: Target = None,
) -> None:
    """Run a command on a host; its output comes as it is printed, and its exit status is that of
    this command.
    """
    found = live.find(target)
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise InputError(
            "there is no command", remedy="as in testbed topo exec iowa-h0 -- ip address"
        )
    known = nodes(found)
    if host not in known:
        raise InputError(
            f"there is no host {host!r} in {found.name}", remedy=suggest(host, known, "hosts")
        )
    request = Request(kind="exec", node=host, words=tuple(words))
    try:
        status = call(found, request, sys.stdout.buffer, sys.stderr.buffer)
    except BrokenPipeError:  # as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise typer.Exit(status)


def nodes(deployment: Deployment) -> list[str]:
    """Names of nodes: hosts, datacenters (for their border routers), and the kernel's own names."""
    network = deployment.read_plan().network
    names = [host.name for host in network.hosts] + [dc.name for dc in network.datacenters]
    return list(dict.fromkeys([*names, *json.loads(deployment.ready.read_text())["nodes"]]))


def shell(target: Target = None) -> None:
    """Mininet's prompt: nodes, net, links, dump, pingall, iperf, or a command on a host (iowa-h0
    ping -c1 ohio-h0).
    """
    found = live.find(target)
    Shell(found, nodes(found), json.loads(found.ready.read_text())["commands"]).run()


def set_(
    settings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE...", help="as in wan.iowa-ohio.delay='20 ms'")
    ],
    target: Target = None,
) -> None:
    """Change links of a network that stands; packets on their way are not lost."""
    change(live.find(target), parse_overrides(settings, ["topology"])["topology"])


def verify(
    topology: Annotated[
        str | None,
        typer.Argument(
            help="a preset or file, deployed for this and destroyed \\[default: a deployment]"
        ),
    ] = None,
    target: Target = None,
    quick: Annotated[bool, typer.Option("--quick", help="round trips only")] = False,
    sets: SetOption = [],  # noqa: B006 (typer copies it)
    clock: ClockOption = "virtual",
    seed: Seed = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Measure round trips, rates and losses, and compare them with the plan; exit status 1 where
    one is off.
    """
    request = Request(kind="verify", quick=quick)
    if topology is None:
        if sets:
            raise InputError(
                "--set needs a topology to deploy",
                remedy="testbed topo set changes one that stands",
            )
        text = answer(live.find(target), request)
    else:
        if target is not None:
            raise InputError(
                "both a topology and a deployment are named", remedy="name one of them"
            )
        made = _deploy(f"verify-{os.getpid()}", load(topology, sets), clock, seed, None)
        try:
            text = answer(made, request)
        finally:
            live.destroy(made)
    checks = [json.loads(line) for line in text.splitlines()]
    _print_checks(checks, output)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(checks, indent=2))
    elif output is Format.CSV:
        typer.echo(csv_text(checks) if checks else "")
    elif not checks:
        typer.echo("nothing to measure: a single datacenter has no WAN links")
    else:
        rows = [
            {
                key: format_figure(value, 6) if isinstance(value, float) else value
                for key, value in check.items()
                if key not in ("ok", "error")
            }
            | {"error": "-" if check["error"] is None else f"{check['error']:+.3g}"}
            | {"verdict": "ok" if check["ok"] else "OUT OF TOLERANCE"}
            for check in checks
        ]
        _print_rows(rows, output)


def destroy(
    names: Annotated[list[str] | None, typer.Argument(help="deployments")] = None,
    everything: Annotated[bool, typer.Option("--all", help="all deployments")] = False,
) -> None:
    """End deployments, and remove all that they have left."""
    if bool(names) == everything:
        raise InputError("name the deployments to destroy, or write --all")
    found = (
        live.deployments()
        if everything
        else [live.find(name, running=False) for name in names or []]
    )
    for deployment in found:
        live.destroy(deployment)
        typer.echo(f"{deployment.name} is destroyed")


def add_to(app: typer.Typer) -> None:
    """Add these commands to `app`."""
    for command in (deploy, inspect, shell, verify, destroy):
        app.command()(command)
    app.command("set")(set_)
    rest_is_the_command = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("exec", context_settings=rest_is_the_command)(execute)
