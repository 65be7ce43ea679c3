"""testbed guest: the guest kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.run import display
from testbed.guest.kernel import kernel_from

app = typer.Typer(help="The guest kernel.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The guest kernel."""


@app.command()
def build(
    source: Annotated[
        Path | None,
        typer.Option(
            envvar="TESTBED_KERNEL_SOURCE", exists=True,
            help="folder or tarball of a Linux source to build from, now and later [default: the distribution's]",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Build the guest kernel, unless it is cached.

    What is named with --source is used until this command is given without it.
    """
    with display() as progress:
        kernel = kernel_from(source, progress.building)
    typer.echo(f"guest kernel Linux {kernel.version}: {kernel.path}")
