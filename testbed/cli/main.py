"""The program `testbed`: its commands, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from testbed import __version__
from testbed.cli import (
    compare,
    doctor,
    guest,
    report,
    run,
    schemas,
    sweep,
    topo,
    topo_deploy,
    topo_files,
    topo_graph,
    vm,
)
from testbed.core.errors import MachineError, TestbedError
from testbed.execution.cleanup import reap

app = typer.Typer(
    help="Emulate datacenters joined by WAN links and run real PyTorch training across them, in exact virtual time.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"testbed {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """What is not about a command."""


topo.app.command("schema")(topo_files.schema)
topo.app.command("reference")(topo_files.reference)
topo.app.command("import")(topo_files.import_file)
topo.app.command("graph")(topo_graph.graph)
topo_deploy.add_to(topo.app)
app.add_typer(topo.app, name="topo")
app.command("run", cls=run.RunCommand)(run.run)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("schema")(schemas.schema)
app.command("reference")(schemas.reference)
app.command("doctor")(doctor.doctor)
app.add_typer(sweep.app, name="sweep")
app.add_typer(guest.app, name="guest")
app.add_typer(vm.app, name="vm")


def main() -> None:
    """Run the command line; errors that a user can meet are printed without a traceback."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    errors = Console(stderr=True, highlight=False)
    try:
        reap()
        status = app(standalone_mode=False)
        if status == 130:  # typer's answer to Ctrl-C
            errors.print("interrupted")
        sys.exit(status or 0)
    except TestbedError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        if isinstance(error, MachineError):
            errors.print(
                "  testbed doctor says what this machine can do, and what mends the rest",
                soft_wrap=True,
            )
        sys.exit(error.exit_status)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)
    except Exception as error:
        if type(error).__name__.endswith("UsageError") or hasattr(error, "format_message"):
            errors.print(f"[bold red]error:[/] {escape(error.format_message())}", soft_wrap=True)  # type: ignore[attr-defined]
            sys.exit(2)
        raise


def _as_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
