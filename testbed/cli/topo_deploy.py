"""testbed topo deploy, inspect, exec, cp, shell, set, verify, destroy: persistent networks."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from testbed.cli.options import (
    TOPOLOGY_TARGETS,
    Clock,
    ClockOption,
    Format,
    FormatOption,
    TopologyArgument,
    TopologySetOption,
    memory_size,
)
from testbed.cli.output import csv_of_rows, wide_console
from testbed.cli.plain_help import PlainCommand
from testbed.cli.progress import display
from testbed.cli.terminal import new_console, raw_output
from testbed.cli.topo import load
from testbed.cli.topo_shell import Shell
from testbed.core.errors import InputError
from testbed.core.units import format_figure, format_probability, format_rate, format_time
from testbed.deployments import service
from testbed.deployments.client import answer, call, exec_request, known_nodes
from testbed.deployments.copy import copy, parse_end
from testbed.deployments.folder import Deployment
from testbed.deployments.input_source import FileSource, raw_terminal
from testbed.deployments.reconfigure import change
from testbed.deployments.requests import Request
from testbed.deployments.status import DeploymentStatus, LinkStatus, status_of
from testbed.plan.model import Network
from testbed.spec.overrides import parse_overrides
from testbed.spec.topology import Topology

NS_PER_MS = 10**6
TARGET_FLAGS = ("-t", "--target")
TERMINAL_FLAGS = ("-it", "-ti")
Row = dict[str, Any]  # a table row: values by column

TargetOption = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--target",
        metavar="NAME",
        envvar="TESTBED_DEPLOYMENT",
        help="name of the deployment \\[default: the only one]",
    ),
]
SeedOption = Annotated[
    int, typer.Option(envvar="TESTBED_SEED", min=0, metavar="N", help="random seed")
]
GuestMemoryOption = Annotated[
    str | None,
    typer.Option(
        envvar="TESTBED_GUEST_MEMORY",
        metavar="SIZE",
        help="memory of the guest \\[default: estimated from the plan]",
    ),
]


def deploy(
    topology: TopologyArgument,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="name of the deployment \\[default: the topology's]"),
    ] = None,
    sets: TopologySetOption = [],  # noqa: B006 (typer copies it)
    clock: ClockOption = "real",
    seed: SeedOption = 0,
    guest_memory: GuestMemoryOption = None,
) -> None:
    """Build the network of a topology in a guest that runs until you destroy it."""
    began = time.monotonic()
    spec = load(topology, sets)
    deployment = _deploy(name or spec.name, spec, clock, seed, guest_memory)
    network = deployment.read_plan().network
    typer.echo(_greeting(deployment.name, network, clock, time.monotonic() - began))
    _warn_of_rates(deployment, clock)
    if network.changes:
        typer.echo(
            "  note: events of the topology apply to runs only; change links with `testbed topo "
            "set`"
        )


def _warn_of_rates(deployment: Deployment, clock: Clock) -> None:
    """On the real clock, measure the fastest link, and warn if this machine is too slow for it."""
    if clock == "virtual":
        return
    text = answer(deployment, Request(kind="verify", fastest=True))
    for check in map(json.loads, text.splitlines()):
        if check["ok"]:
            continue
        measured = check["measured"]
        rate = "nothing arrived" if measured is None else format_rate(round(measured * 1e6), 3)
        planned = format_rate(round(check["expected"] * 1e6), 3)
        _warn(
            f"not faithful: this machine carries {rate} from {check['from']} to {check['to']} in "
            f"real time, but the plan has {planned}\n"
            "  use --clock virtual, or links with lower rates"
        )


def _greeting(name: str, network: Network, clock: Clock, seconds: float) -> str:
    """Return the message after a deployment: its size, and the commands to use the network."""
    hosts = len(network.hosts)
    datacenters = len(network.datacenters)
    first_host = network.hosts[0].name
    last_address = network.hosts[-1].address.ip
    return (
        f"{name}: {hosts} hosts in {datacenters} datacenters, ready after {seconds:.1f} s "
        f"({clock} clock)\n"
        f"  testbed topo exec -t {name} {first_host} -- ping -c3 {last_address}\n"
        f"  testbed topo shell -t {name}, inspect {name}, destroy {name}"
    )


def _deploy(
    name: str, spec: Topology, clock: Clock, seed: int, guest_memory: str | None
) -> Deployment:
    memory_bytes = None
    if guest_memory is not None:
        memory_bytes = memory_size(guest_memory, "--guest-memory")
    with display() as progress:
        return service.deploy(
            name, spec, clock=clock, seed=seed, memory_bytes=memory_bytes, progress=progress
        )


def inspect(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="deployment to show in full \\[default: list all]"),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """List deployments, or show one with its hosts and links."""
    if name is None:
        _print_all(output)
        return
    status = status_of(service.find(name, running=False))
    if output is Format.JSON:
        typer.echo(status.model_dump_json(by_alias=True, indent=2))
    elif output is Format.CSV:
        typer.echo(csv_of_rows(_hosts_and_links(status)))
    else:
        _print_one(status)


def _print_all(output: Format) -> None:
    """Print one line per deployment."""
    statuses = [status_of(deployment) for deployment in service.deployments()]
    if output is Format.JSON:
        documents = [status.model_dump(mode="json", by_alias=True) for status in statuses]
        typer.echo(json.dumps(documents, indent=2))
        return

    rows = [_summary_row(status) for status in statuses]
    _print_rows(rows, output)


def _summary_row(status: DeploymentStatus) -> Row:
    return {
        "name": status.name,
        "state": status.state,
        "topology": status.topology,
        "clock": status.clock,
        "uptime_s": status.uptime_s,
        "virtual_s": status.virtual_s,
        "pid": status.pid,
        "hosts": len(status.hosts),
        "links": len(status.links) // 2,
    }


def _hosts_and_links(status: DeploymentStatus) -> list[Row]:
    """Return the hosts and link directions of a deployment as rows of one table."""
    rows: list[Row] = []
    for host in status.hosts:
        row: Row = {"kind": "host", "name": host.name}
        row["from"] = host.datacenter
        row["address"] = host.address
        rows.append(row)

    for link in status.links:
        row = {"kind": "link", "name": link.link}
        row.update(link.model_dump(by_alias=True, exclude={"link"}))
        rows.append(row)

    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))

    whole_rows: list[Row] = []
    for row in rows:
        whole_rows.append({column: row.get(column) for column in columns})
    return whole_rows


def _print_rows(rows: list[Row], output: Format) -> None:
    if output is Format.CSV:
        typer.echo(csv_of_rows(rows))
        return
    if not rows:
        typer.echo("no networks are deployed")
        return
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    wide_console().print(table)


def _print_one(status: DeploymentStatus) -> None:
    _print_rows([_summary_row(status)], Format.TABLE)
    if status.reason:
        typer.echo(status.reason)
    typer.echo("")
    hosts = [host.model_dump() for host in status.hosts]
    _print_rows(hosts, Format.TABLE)

    links = [_link_row(link) for link in status.links]
    if links:
        typer.echo("")
        _print_rows(links, Format.TABLE)


def _link_row(link: LinkStatus) -> Row:
    """Return the settings of a link direction, with units."""
    return {
        "from": link.source,
        "to": link.target,
        "address": link.address,
        "rate": format_rate(link.rate_bps),
        "delay": format_time(round(link.delay_ms * NS_PER_MS)),
        "jitter": format_time(round(link.jitter_ms * NS_PER_MS)),
        "loss": format_probability(link.loss),
        "queue (packets)": link.queue_packets,
    }


class ExecCommand(PlainCommand):
    """The command ``testbed topo exec``; ``-it`` means ``-i --tty``, as elsewhere."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Replace ``-it`` among the options before the host: alone, ``-t`` names the target."""
        before = ""
        for position, word in enumerate(args):
            if word in TERMINAL_FLAGS and before not in TARGET_FLAGS:
                args = [*args[:position], "-i", "--tty", *args[position + 1 :]]
                break
            if not word.startswith("-") and before not in TARGET_FLAGS:
                break  # the host; all words after it are the command's
            before = word
        return super().parse_args(ctx, args)


def execute(
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="host, or datacenter (meaning its border router)")
    ],
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND", help="command to run on the host")
    ],
    target: TargetOption = None,
    interactive: Annotated[
        bool,
        typer.Option("-i", "--interactive", help="pass this command's input on to COMMAND"),
    ] = False,
    terminal: Annotated[
        bool,
        typer.Option("--tty", help="pass this terminal on to COMMAND; -it does the same"),
    ] = False,
) -> None:
    """Run a command on a host, and return its exit status.

    Output is printed as the command writes it. Without -i, the command's input is empty.
    """
    deployment = service.find(target)
    words = command[1:] if command[0] == "--" else command
    try:
        status = _call_with_input(deployment, host, words, interactive, terminal)
    except BrokenPipeError:  # such as in `... | head`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    raise typer.Exit(status)


def _call_with_input(
    deployment: Deployment, host: str, words: list[str], interactive: bool, terminal: bool
) -> int:
    """Run a command on a host, with the input or the terminal of this process.

    Raises:
        InputError: the host does not exist, or a terminal is asked for and there is none.
    """
    if terminal and not (sys.stdin.isatty() and sys.stdout.isatty()):
        remedy = "use -i alone to pass on input from a pipe or a file"
        raise InputError("standard input or output is not a terminal", remedy=remedy)
    kind = os.environ.get("TERM", "dumb") if terminal else ""
    request = exec_request(deployment, host, words, has_input=interactive, terminal=kind)
    out, err = raw_output()
    fd = sys.stdin.fileno() if interactive or terminal else -1
    warnings: list[str] = []
    if terminal:
        with raw_terminal(fd) as source:
            status = call(deployment, request, out, err, source, warnings.append)
    else:
        source_of_input = FileSource(fd) if interactive else None
        status = call(deployment, request, out, err, source_of_input, warnings.append)
    for warning in warnings:
        _warn(f"not faithful: {warning}")
    return status


def _warn(text: str) -> None:
    new_console(stderr=True).print(Text(f"warning: {text}", "bold yellow"), soft_wrap=True)


def copy_(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="file or folder: HOST:PATH, or a local path")
    ],
    target_path: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="HOST:PATH, or a local path; an existing folder receives the copy",
        ),
    ],
    target: TargetOption = None,
) -> None:
    """Copy a file or a folder to a host, or from a host.

    Hosts share the files of the guest, so a copy on one host is visible on all of them.
    """
    deployment = service.find(target)
    copy(deployment, parse_end(source, deployment), parse_end(target_path, deployment))


def shell(target: TargetOption = None) -> None:
    """Open the prompt of Mininet: nodes, net, links, dump, pingall, iperf, commands on hosts.

    To run a command on a host, start with the name of the host: iowa-h0 ping -c1 ohio-h0.
    """
    deployment = service.find(target)
    Shell(deployment, known_nodes(deployment), deployment.read_ready().commands).run()


def set_(
    settings: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE", help="settings, such as wan.iowa-ohio.delay='20 ms'"),
    ],
    target: TargetOption = None,
) -> None:
    """Change links of a deployed network without losing packets in flight."""
    overrides = parse_overrides(settings, TOPOLOGY_TARGETS)["topology"]
    change(service.find(target), overrides)


def verify(
    topology: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPOLOGY",
            help="preset or topology file to deploy for the measurement \\[default: use a "
            "deployment]",
        ),
    ] = None,
    target: TargetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="measure round trips only")] = False,
    sets: TopologySetOption = [],  # noqa: B006 (typer copies it)
    clock: ClockOption = "virtual",
    seed: SeedOption = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Measure round trips, rates and losses, and compare them with the plan.

    Ends with status 1 if a measurement is out of tolerance.
    """
    request = Request(kind="verify", quick=quick)
    if topology is None:
        if sets:
            remedy = "change a deployed network with `testbed topo set`"
            raise InputError("--set needs a topology to deploy", remedy=remedy)
        text = answer(service.find(target), request)
    else:
        if target is not None:
            what = "cannot verify both a topology and a deployment"
            raise InputError(what, remedy="name only one of the two")
        deployment = _deploy(f"verify-{os.getpid()}", load(topology, sets), clock, seed, None)
        try:
            text = answer(deployment, request)
        finally:
            service.destroy(deployment)

    checks = [json.loads(line) for line in text.splitlines()]
    _print_checks(checks, output)
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: list[Row], output: Format) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(checks, indent=2))
    elif output is Format.CSV:
        typer.echo(csv_of_rows(checks))
    elif not checks:
        typer.echo("nothing to measure: a single datacenter has no WAN links")
    else:
        _print_rows([_check_row(check) for check in checks], output)


def _check_row(check: Row) -> Row:
    """Return a check as a row for people: rounded, with the verdict as text in the last column."""
    row: Row = {}
    for column, value in check.items():
        if column in ("ok", "error"):
            continue
        if isinstance(value, float):
            row[column] = format_figure(value, 6)
        else:
            row[column] = value

    error = check["error"]
    row["error"] = "-" if error is None else f"{error:+.3g}"
    row["verdict"] = "ok" if check["ok"] else "OUT OF TOLERANCE"
    return row


def destroy(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="deployments to destroy")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="destroy all deployments")] = False,
) -> None:
    """End deployments, and remove their files."""
    if bool(names) == everything:
        raise InputError("name the deployments to destroy, or use --all")
    if everything:
        doomed = service.deployments()
    else:
        doomed = [service.find(name, running=False) for name in names or []]
    for deployment in doomed:
        service.destroy(deployment)
        typer.echo(f"destroyed {deployment.name}")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (deploy, inspect, shell, verify, destroy):
        app.command()(command)
    app.command("set")(set_)
    app.command("cp")(copy_)
    words_are_the_command = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("exec", cls=ExecCommand, context_settings=words_are_the_command)(execute)
