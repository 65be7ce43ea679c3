"""testbed guest: build the guest kernel, and run commands in a guest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.options import ClockOption, memory_size
from testbed.cli.progress import display
from testbed.core.errors import GuestLost, InputError
from testbed.guest import interactive
from testbed.guest.kernel import ensure_kernel, kernel_from

MemoryOption = Annotated[
    str, typer.Option(envvar="TESTBED_GUEST_MEMORY", metavar="SIZE", help="memory of the guest")
]

app = typer.Typer(help="Build the guest kernel, and run commands in a guest.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Build the guest kernel, and run commands in a guest."""


@app.command()
def build(
    source: Annotated[
        Path | None,
        typer.Option(
            envvar="TESTBED_KERNEL_SOURCE",
            exists=True,
            metavar="PATH",
            help="folder or tarball of Linux sources to build from, now and in later builds "
            "\\[default: the sources of the distribution]",
        ),
    ] = None,
) -> None:
    """Build the guest kernel, unless it is cached.

    Later builds use the same --source until you run this command without the option.
    """
    with display() as progress:
        kernel = kernel_from(source, progress.building)
    typer.echo(f"guest kernel Linux {kernel.version}: {kernel.path}")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="program and arguments, after --"),
    ],
    clock: ClockOption = "virtual",
    memory: MemoryOption = "2 GiB",
) -> None:
    """Run a command as root of a new guest: testbed guest exec -- uname -a

    The command can read the files of this machine and has no network. Files that it writes are lost
    when the guest ends.
    """
    memory_bytes = memory_size(memory, "--memory")
    status = interactive.execute(
        ensure_kernel(), command, clock=clock, memory_bytes=memory_bytes, say=_print
    )
    _exit(status)


@app.command()
def shell(clock: ClockOption = "real", memory: MemoryOption = "2 GiB") -> None:
    """Open a shell as root of a new guest, to inspect its kernel or to try netem by hand.

    The shell can read the files of this machine and has no network. Files that you write are lost
    when the guest ends.
    """
    if not sys.stdin.isatty():
        remedy = "run a single command with: testbed guest exec -- COMMAND"
        raise InputError("a shell needs a terminal", remedy=remedy)
    memory_bytes = memory_size(memory, "--memory")
    status = interactive.shell(ensure_kernel(), clock=clock, memory_bytes=memory_bytes)
    _exit(status)


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _exit(status: int) -> None:
    """Exit with the status of the guest's command; a negative status means a lost guest."""
    raise typer.Exit(status if status >= 0 else GuestLost.exit_status)
