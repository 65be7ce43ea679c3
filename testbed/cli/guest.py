"""testbed guest: build the guest kernel, and run commands in it by hand."""

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
    str, typer.Option(envvar="TESTBED_GUEST_MEMORY", help="memory of the guest")
]

app = typer.Typer(help="The guest kernel.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The guest kernel."""


@app.command()
def build(
    source: Annotated[
        Path | None,
        typer.Option(
            envvar="TESTBED_KERNEL_SOURCE",
            exists=True,
            help="folder or tarball of a Linux source to build from, now and later "
            "\\[default: the distribution's]",
        ),
    ] = None,
) -> None:
    """Build the guest kernel, unless it is cached.

    What is named with --source is used until this command is given without it.
    """
    with display() as progress:
        kernel = kernel_from(source, progress.building)
    typer.echo(f"guest kernel Linux {kernel.version}: {kernel.path}")


@app.command("exec", context_settings={"ignore_unknown_options": True})
def execute(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="a program and its arguments, after --"),
    ],
    clock: ClockOption = "virtual",
    memory: MemoryOption = "2 GiB",
) -> None:
    """Run a command as root of a new guest: testbed guest exec -- uname -a

    It sees this machine's files and no network. What it writes is gone afterwards.
    """
    memory_bytes = memory_size(memory, "--memory")
    status = interactive.execute(
        ensure_kernel(), command, clock=clock, memory_bytes=memory_bytes, say=_print
    )
    _exit(status)


@app.command()
def shell(clock: ClockOption = "real", memory: MemoryOption = "2 GiB") -> None:
    """Open a shell as root of a new guest: to look at its kernel, or to try netem by hand.

    It sees this machine's files and no network. What is written there is gone afterwards.
    """
    if not sys.stdin.isatty():
        remedy = "testbed guest exec -- COMMAND runs a command without one"
        raise InputError("a shell needs a terminal", remedy=remedy)
    memory_bytes = memory_size(memory, "--memory")
    status = interactive.shell(ensure_kernel(), clock=clock, memory_bytes=memory_bytes)
    _exit(status)


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _exit(status: int) -> None:
    """End with the status of the guest's command; a negative one says that the guest was lost."""
    raise typer.Exit(status if status >= 0 else GuestLost.exit_status)
