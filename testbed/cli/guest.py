"""testbed guest: the guest kernel."""

from __future__ import annotations

import typer

from testbed.cli.run import display
from testbed.guest.kernel import ensure_kernel

app = typer.Typer(help="The guest kernel.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The guest kernel."""


@app.command()
def build() -> None:
    """Build the guest kernel, unless it is cached."""
    with display() as progress:
        kernel = ensure_kernel(progress.building)
    typer.echo(f"guest kernel Linux {kernel.version}: {kernel.path}")
