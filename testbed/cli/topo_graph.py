"""testbed topo graph: a topology as an image, or as text for Graphviz or Mermaid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from testbed.cli.files import check_ending, write_file
from testbed.cli.options import TopologyArgument, TopologySetOption
from testbed.cli.topo import load
from testbed.core.errors import InputError
from testbed.plan.model import Network
from testbed.plan.resolve import resolve_network

FORMATS = (".svg", ".png", ".pdf")

Theme = Literal["auto", "light", "dark"]


def graph(
    topology: TopologyArgument,
    sets: TopologySetOption = [],  # noqa: B006 (typer copies it)
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="write or replace a .svg, .png or .pdf file "
            "\\[default: <name>.svg, if that does not exist yet]",
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
        typer.Option(
            envvar="TESTBED_THEME",
            help="colours; auto follows the viewer's preference, and is light in a .png or .pdf",
        ),
    ] = "auto",
    width: Annotated[
        int,
        typer.Option(
            envvar="TESTBED_WIDTH", min=200, max=8000, metavar="PIXELS", help="width of a .png"
        ),
    ] = 1920,
) -> None:
    """Draw a topology as a map of its sites and WAN links.

    Without locations of the sites, the drawing has no map.
    """
    from testbed.report import network_text  # noqa: PLC0415

    if dot + mermaid + (output is not None) > 1:
        remedy = "--dot and --mermaid print to standard output; use > FILE"
        raise InputError("--dot, --mermaid and -o are mutually exclusive", remedy=remedy)
    if output is not None:
        check_ending(output, FORMATS, "--output")
    network = resolve_network(load(topology, sets))
    if dot:
        typer.echo(network_text.dot(network))
        return
    if mermaid:
        typer.echo(network_text.mermaid(network))
        return
    path = _file_for(network, output)
    image = _image(network, path, theme, width)
    write_file(path, image, "-o")
    typer.echo(path)


def _file_for(network: Network, output: Path | None) -> Path:
    """Return the path of the image; never replace a file that the user did not name.

    Raises:
        InputError: The default file exists.
    """
    if output is None:
        path = Path(f"{network.name}.svg")
        if path.exists():
            raise InputError(f"{path} already exists", remedy=f"replace it with -o {path}")
        return path
    return output


def _image(network: Network, path: Path, theme: Theme, width: int) -> bytes:
    from testbed.report.map.site_map import png, site_map  # noqa: PLC0415

    if path.suffix.lower() == ".svg":
        return site_map(network, theme=theme).encode()
    fixed_theme: Theme = "dark" if theme == "dark" else "light"
    svg = site_map(network, theme=fixed_theme)
    if path.suffix.lower() == ".png":
        return png(svg, width)

    from testbed.report.map.pdf import map_pdf  # noqa: PLC0415 (matplotlib takes a while)

    return map_pdf(svg)
