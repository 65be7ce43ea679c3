"""testbed doctor: what this machine can do, why not the rest, and what mends it."""

from __future__ import annotations

import json

import typer
from rich.markup import escape
from rich.table import Table

from testbed.cli.options import Format, FormatOption
from testbed.cli.output import wide_console
from testbed.cli.topo import csv_text
from testbed.core.errors import MachineError
from testbed.doctor.capabilities import Capability, capabilities, default_runs
from testbed.doctor.machine import look

MACHINE_LACKS = MachineError.exit_status


def doctor(output: FormatOption = Format.TABLE) -> None:
    """Say what this machine can do: each with yes or no, why, and the command that mends it.

    Exit status 3 if what testbed run does without options (a guest with the virtual clock, hosts in
    containers) cannot be done.
    """
    found = capabilities(look())
    works = default_runs(found)
    if output is Format.JSON:
        records = [capability.record() for capability in found]
        typer.echo(json.dumps({"default_runs": works, "capabilities": records}, indent=2))
    elif output is Format.CSV:
        typer.echo(
            csv_text([{k: v for k, v in one.record().items() if k != "checks"} for one in found])
        )
    else:
        _print(found, works)
    raise typer.Exit(0 if works else MACHINE_LACKS)


def _print(found: list[Capability], works: bool) -> None:
    table = Table("can", "", "why", box=None, pad_edge=False)
    for capability in found:
        yes = "yes" if capability.available else "[bold]no[/]"
        table.add_row(capability.name, yes, escape(capability.why))
        if capability.mend:
            table.add_row("", "", escape(f"→ {capability.mend}"))
    console = wide_console()
    console.print(table)
    console.print(
        "testbed run works here as it is"
        if works
        else "testbed run does not work here without options"
    )
