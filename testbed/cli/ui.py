"""testbed ui: runs, sweeps and deployed networks in the browser, as they happen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from testbed.core.errors import MachineError

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="folder with runs and sweeps")
]
PortOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=65535, metavar="PORT", help="port \\[default: the first free one from 8600 on]"
    ),
]
HostOption = Annotated[
    str, typer.Option(metavar="ADDRESS", help="address to listen on; others need --token")
]
TokenOption = Annotated[
    str,
    typer.Option(
        envvar="TESTBED_UI_TOKEN",
        metavar="TOKEN",
        help="16 or more letters and digits that a browser must know",
    ),
]


def ui(
    folder: FolderArgument = Path("results"),
    port: PortOption = None,
    host: HostOption = "127.0.0.1",
    token: TokenOption = "",
) -> None:
    """Show runs, sweeps and deployed networks in the browser, as they happen.

    The page can change links of deployed networks and take them down. Ctrl-C ends the server.
    """
    try:
        from testbed.ui.serve import serve  # noqa: PLC0415 (slow, and needs the extra)
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise MachineError(
            f"{error.name}, which serves the page, is not installed\n"
            "  run `pip install --editable '.[ui]'` in the folder of the project"
        ) from error

    def ready(address: str) -> None:
        typer.echo(f"{os.fspath(folder)}: {address}")
        typer.echo("Ctrl-C ends the server")

    serve(folder, host=host, port=port, token=token, ready=ready)
