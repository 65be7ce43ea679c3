"""JSON schemas of the files of a run folder: current, and fitted by what is written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from pydantic import BaseModel
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.plan.resolve import resolve
from testbed.runfolder.files import write_json
from testbed.runfolder.status import Status
from testbed.runfolder.summary import Summary
from testbed.spec.topology import Topology
from testbed.spec.workload import load_workload

PROJECT = Path(__file__).parents[3]
FILES = ["plan", "summary", "status"]


def published(file: str) -> str:
    return (PROJECT / f"docs/schemas/{file}.json").read_text()


@pytest.mark.parametrize("file", FILES)
def test_schema_is_current(file: str) -> None:
    done = CliRunner().invoke(app, ["schema", file])
    assert done.exit_code == 0
    assert published(file) == done.stdout, f"docs/schemas/{file}.json is stale: run `make docs`"


@pytest.mark.parametrize("file", FILES)
def test_schema_is_valid(file: str) -> None:
    schema = json.loads(published(file))
    assert Draft7Validator(Draft7Validator.META_SCHEMA).is_valid(schema)


def properties(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of the schema and of its definitions, by model and key."""
    for title, model in {"": document, **document["$defs"]}.items():
        for key, field in model.get("properties", {}).items():
            yield f"{title}.{key}", field


@pytest.mark.parametrize("file", FILES)
def test_every_key_is_described(file: str) -> None:
    document = json.loads(published(file))
    bare = [name for name, field in properties(document) if not field.get("description")]
    assert bare == [], "name the field below Attributes: in the docstring of its model"


@pytest.mark.parametrize("topology", ["two-sites", "microsoft-openai-five"])
def test_plans_fit(topology: str) -> None:
    plan = resolve(
        Topology.load(topology), load_workload("collectives"), machine_memory_bytes=2**40
    )
    schema = Draft7Validator(json.loads(published("plan")))
    assert list(schema.iter_errors(json.loads(plan.model_dump_json()))) == []


@pytest.mark.parametrize(("file", "document"), [("summary", Summary()), ("status", Status())])
def test_summary_and_status_fit(tmp_path: Path, file: str, document: BaseModel) -> None:
    path = tmp_path / "document.json"
    write_json(path, document)
    schema = Draft7Validator(json.loads(published(file)))
    assert list(schema.iter_errors(json.loads(path.read_text()))) == []
