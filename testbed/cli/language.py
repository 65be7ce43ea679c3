"""testbed topo schema, reference: the topology language, for editors and for people."""

from __future__ import annotations

import json

import typer

from testbed.spec.reference import reference as page
from testbed.spec.topology import Topology


def schema() -> None:
    """Print the JSON schema of topology files, which editors check against."""
    typer.echo(json.dumps(Topology.json_schema(), indent=2))


def reference() -> None:
    """Print the reference of topology files: every key with its unit, default and meaning (Markdown)."""
    typer.echo(page())
