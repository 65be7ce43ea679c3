"""The program `testbed`: its commands, and the exit status of errors."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from testbed import __version__
from testbed.cli import (
    clean,
    compare,
    doctor,
    export,
    find,
    guest,
    report,
    reproduce,
    run,
    schemas,
    sweep,
    topo,
    topo_deploy,
    topo_files,
    topo_graph,
    ui,
    vm,
)
from testbed.cli.plain_help import use_plain_help
from testbed.cli.terminal import check_output, new_console, use_terminal
from testbed.cli.usage import usage_error
from testbed.core.errors import InputError, MachineError, StorageError, TestbedError
from testbed.core.full_disk import is_disk_full, write_failure
from testbed.core.plain_text import plain_text
from testbed.execution.cleanup import reap

INTERRUPTED = 130  # exit status

app = typer.Typer(
    help="Emulate datacenters joined by WAN links and run real PyTorch training across them, in "
    "exact virtual time.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"testbed {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options without a command."""


topo.app.command("schema")(topo_files.schema)
topo.app.command("reference")(topo_files.reference)
topo.app.command("import")(topo_files.import_file)
topo.app.command("graph")(topo_graph.graph)
topo_deploy.add_to(topo.app)
app.add_typer(topo.app, name="topo")
app.command("run", cls=run.RunCommand)(run.run)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("ui")(ui.ui)
app.command("schema")(schemas.schema)
app.command("reference")(schemas.reference)
app.command("doctor")(doctor.doctor)
app.command("clean")(clean.clean)
app.add_typer(sweep.app, name="sweep")
app.command("find")(find.find)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(guest.app, name="guest")
app.add_typer(vm.app, name="vm")
use_plain_help(app)


def main() -> None:
    """Run the command line; print errors of users without a traceback."""
    use_terminal()
    signal.signal(signal.SIGTERM, _raise_interrupt)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup makes programs ignore SIGHUP
        signal.signal(signal.SIGHUP, _raise_interrupt)
    try:
        status = _run()
        if status == 0:
            check_output()
    except TestbedError as error:
        _ignore_signals()
        _print_error(str(error))
        if isinstance(error, MachineError) and not isinstance(error, StorageError):
            hint = "  `testbed doctor` lists what works on this machine and how to fix the rest"
            _errors().print(hint, soft_wrap=True)
        status = error.exit_status
    except KeyboardInterrupt:
        _ignore_signals()
        _errors().print("interrupted")
        status = INTERRUPTED
    _ignore_signals()
    sys.exit(status)


def _ignore_signals() -> None:
    """Ignore signals from now on: the outcome is known, and the interpreter only has to end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _run() -> int:
    """Run the command line, and return its exit status.

    Raises:
        TestbedError: The command failed.
        KeyboardInterrupt: The user interrupted the command.
    """
    try:
        _check_words(sys.argv[1:])
        reap()
        status = app(prog_name="testbed", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return INTERRUPTED
    except OSError as error:
        if error.errno is None:
            raise
        raise _file_failure(error) from error
    except SystemExit as stop:
        # typer ends the program, without a word, where a pipe or socket is broken. The terminal's
        # are no matter: `use_terminal` takes care of them.
        broken = stop.__context__
        if not isinstance(broken, BrokenPipeError):
            raise
        raise _file_failure(broken) from broken
    except Exception as error:
        # A usage error; its class belongs to click or typer, depending on typer's version.
        if not hasattr(error, "format_message"):
            raise
        raise usage_error(error) from None
    if status == INTERRUPTED:  # typer's exit status for Ctrl-C
        raise KeyboardInterrupt
    return status or 0


def _file_failure(error: OSError) -> StorageError:
    """Return the error of a command whose read or write failed."""
    remedy = "check the file and its disk, then run the same command again"
    if is_disk_full(error):
        remedy = "free some space, then run the same command again"
    return write_failure(error, "a file could not be written or read", remedy)


def _check_words(words: list[str]) -> None:
    """Check that the command line is UTF-8, as plans, commands and pages are.

    Raises:
        InputError: A word holds bytes that are not UTF-8.
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the argument {plain_text(word)} is not UTF-8",
                remedy="rename the file, or encode the text as UTF-8",
            ) from error


def _errors() -> Console:
    return new_console(stderr=True, highlight=False)


def _print_error(message: str) -> None:
    _errors().print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
