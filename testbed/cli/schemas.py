"""testbed schema, testbed reference: JSON schemas of files, and the reference of options."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from pydantic import BaseModel

from testbed.plan.model import Plan
from testbed.runfolder.status import Status
from testbed.runfolder.summary import Summary
from testbed.spec.docs.run_options import run_options_page
from testbed.spec.docs.schema import SchemaGenerator

MODELS: dict[str, type[BaseModel]] = {"plan": Plan, "summary": Summary, "status": Status}


def schema(
    file: Annotated[
        Literal["plan", "summary", "status"], typer.Argument(help="name of the file, without .json")
    ],
) -> None:
    """Print the JSON schema of a file of the run folder."""
    document = MODELS[file].model_json_schema(
        mode="serialization", schema_generator=SchemaGenerator
    )
    typer.echo(json.dumps(document, indent=2))


def reference() -> None:
    """Print the reference of the options of a run (Markdown)."""
    typer.echo(run_options_page())
