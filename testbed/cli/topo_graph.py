"""testbed topo graph: a topology as a picture, or as text for Graphviz or Mermaid."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from testbed.cli.options import SetOption, TopologyArgument
from testbed.cli.topo import load
from testbed.core.errors import InputError
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network

FORMATS = (".svg", ".png")


class Theme(StrEnum):
    """Colours of a picture."""

    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


def graph(
    topology: TopologyArgument,
    sets: SetOption = [],  # noqa: B006 (typer copies it)
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="a .svg or .png, replaced if it exists; left out: <name>.svg here, unless that exists",
        ),
    ] = None,
    dot: Annotated[
        bool, typer.Option("--dot", help="print Graphviz DOT instead of drawing")
    ] = False,
    mermaid: Annotated[
        bool, typer.Option("--mermaid", help="print a Mermaid flowchart instead of drawing")
    ] = False,
    theme: Annotated[
        Theme,
        typer.Option(envvar="TESTBED_THEME", help="auto: as the viewer prefers; in a .png, light"),
    ] = Theme.AUTO,
    width: Annotated[
        int, typer.Option(envvar="TESTBED_WIDTH", min=200, max=8000, help="of a .png, in pixels")
    ] = 1920,
) -> None:
    """Draw a topology: a map of its sites and WAN links, or a plain drawing if the sites have no
    locations.
    """
    from testbed.report import network_text  # noqa: PLC0415

    if dot + mermaid + (output is not None) > 1:
        raise InputError(
            "--dot, --mermaid and -o exclude each other",
            remedy="--dot and --mermaid print; use > FILE",
        )
    network = resolve_network(load(topology, sets))
    if dot or mermaid:
        typer.echo(network_text.dot(network) if dot else network_text.mermaid(network))
        return
    path = _file_for(network, output)
    try:
        path.write_bytes(_image(network, path, theme, width))
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}", remedy="name another file with -o"
        ) from error
    typer.echo(path)


def _file_for(network: Network, output: Path | None) -> Path:
    """Where the picture goes; a file that the user did not name is not replaced."""
    if output is None:
        path = Path(f"{network.name}.svg")
        if path.exists():
            raise InputError(f"{path} exists already", remedy=f"`-o {path}` replaces it")
        return path
    if output.suffix.lower() not in FORMATS:
        raise InputError(
            f"{output} is neither a .svg nor a .png",
            remedy="the file's ending says what it will be",
        )
    return output


def _image(network: Network, path: Path, theme: Theme, width: int) -> bytes:
    from testbed.report.map.site_map import png, site_map  # noqa: PLC0415

    if path.suffix.lower() == ".svg":
        return site_map(network, theme=theme.value).encode()
    return png(site_map(network, theme="dark" if theme is Theme.DARK else "light"), width)
