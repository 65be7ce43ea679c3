"""testbed doctor: which features work on this machine, and how to fix the others."""

from __future__ import annotations

import json

import typer
from rich.markup import escape
from rich.table import Table

from testbed.cli.options import Format, FormatOption
from testbed.cli.output import csv_of_rows, wide_console
from testbed.core.errors import MachineError
from testbed.core.installation import PROJECT, is_clone
from testbed.doctor.capabilities import Capability, capabilities, default_runs, process_runs
from testbed.doctor.machine import look

CLONE = "a clone of the project, {folder}: scripts/setup (make setup) installs what is missing"
WHEEL = (
    "a wheel in {folder}; what is missing comes with "
    "pip install 'wan-training-testbed[run]' wan-training-testbed-kernel"
)


def doctor(output: FormatOption = Format.TABLE) -> None:
    """List what works on this machine, why something does not work, and how to fix it.

    Ends with status 3 if `testbed run` does not work without options (in a guest with the virtual
    clock, hosts in containers).
    """
    judged = capabilities(look())
    works = default_runs(judged)
    records = [capability.record() for capability in judged]
    if output is Format.JSON:
        answer = {
            "installation": "clone" if is_clone() else "wheel",
            "default_runs": works,
            "capabilities": records,
        }
        typer.echo(json.dumps(answer, indent=2))
    elif output is Format.CSV:
        for record in records:
            del record["checks"]
        typer.echo(csv_of_rows(records))
    else:
        _print(judged, works)
    raise typer.Exit(0 if works else MachineError.exit_status)


def _print(judged: list[Capability], works: bool) -> None:
    table = Table("can", "", "why", box=None, pad_edge=False)
    for capability in judged:
        answer = "yes" if capability.available else "[bold]no[/]"
        table.add_row(capability.name, answer, escape(capability.why))
        if capability.mend:
            table.add_row("", "", escape(f"→ {capability.mend}"))
    console = wide_console()
    console.print(table)
    installation = (CLONE if is_clone() else WHEEL).format(folder=PROJECT)
    console.print(escape(f"installation: {installation}"), soft_wrap=True)
    if works:
        console.print("`testbed run` will work on this machine")
    elif process_runs(judged):
        console.print("testbed run works here with --isolation process")
    else:
        console.print("`testbed run` does not work on this machine without options")
