"""The schema that editors use and the reference page: up to date, and as strict as the loader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from testbed.cli.main import app
from testbed.core.errors import InputError
from testbed.spec.docs.reference import example
from testbed.spec.presets import TOPOLOGIES
from testbed.spec.topology import Topology

PROJECT = Path(__file__).parents[3]
SCHEMA = Topology.json_schema()
VALIDATOR = Draft7Validator(SCHEMA)


@pytest.mark.parametrize(
    ("command", "file"),
    [("schema", "topologies/schema.json"), ("reference", "docs/topology-reference.md")],
)
def test_files_are_up_to_date(command: str, file: str) -> None:
    made = CliRunner().invoke(app, ["topo", command])
    assert made.exit_code == 0
    assert (PROJECT / file).read_text() == made.stdout, (
        f"{file} is stale: `make docs` writes the file"
    )


def test_schema_is_valid() -> None:
    assert Draft7Validator(Draft7Validator.META_SCHEMA).is_valid(SCHEMA)


@pytest.mark.parametrize("preset", TOPOLOGIES.presets(), ids=lambda preset: preset.name)
def test_presets_fit_the_schema_and_name_it(preset: Any) -> None:
    text = preset.path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    VALIDATOR.validate(yaml.safe_load(text))


LINK = "between: [a, b], rate: 1 Gbit/s, delay: 1 ms"


def linked(settings: str, more: str = "") -> str:
    """A file with two datacenters, an entry of `wan` with `settings`, and more lines."""
    return f"datacenters: {{a: {{}}, b: {{}}}}\nwan: [{{{settings}}}]\n{more}"


RIGHT = [
    "extends: tesla-dojo\ndatacenters: {buffalo: null}",
    "extends: two-sites",
    "datacenters: {a: {x-rack: 3}}\nx-mine: anything",
    "datacenters: {a: {location: [1, 2.5]}, b: {}}\n"
    "wan: [{between: [a, b], rate: 1gbps, delay: 0}]",
    linked(f"{LINK}, loss: {{p: 1 %, r: 5 %}}, queue: 20 packets"),
    linked(f"{LINK}, loss: {{a->b: {{p: 1 %, r: 5 %}}, b->a: 1 %}}, queue: 1 MB"),
    linked("mesh: all, rate: 1 Gbit/s, delay: 1e3 µs", "tcp: {buffer: auto}"),
    linked("star: [b, a], rate: 1 Gbit/s, delay: 1 s", "tcp: {buffer: 64 MiB}"),
]
WRONG = {
    "no datacenters": "name: x",
    "unknown key": "datacenters: {a: {host: 4}}",
    "unknown key at the top": "datacenters: {a: {}}\ntpc: {}",
    "unknown key of bursty loss": linked(f"{LINK}, loss: {{p: 1 %, q: 1 %}}"),
    "name": "datacenters: {Ohio_1: {}}",
    "wrong unit of a time": linked(LINK.replace("ms", "km")),
    "wrong unit of a rate": linked(LINK.replace("bit/s", "BPS")),
    "no unit": linked(LINK.replace("1 Gbit/s", "10")),
    "no unit in one direction": linked(f"{LINK}, jitter: {{a->b: 10}}"),
    "wrong unit of a queue": linked(f"{LINK}, queue: 1 bpd"),
    "two shapes": linked(f"{LINK}, mesh: all"),
    "no shape": linked("rate: 1 Gbit/s, delay: 1 ms"),
    "too many hosts": "datacenters: {a: {hosts: 1000}}",
    "unknown algorithm": "datacenters: {a: {}}\ntcp: {congestion_control: vegas}",
    "a link of three": linked(LINK.replace("b]", "b, c]")),
}


@pytest.mark.parametrize("text", RIGHT)
def test_right_files_fit_the_schema(text: str, tmp_path: Path) -> None:
    path = tmp_path / "right.yaml"
    path.write_text(text)
    assert Topology.load(path).datacenters
    assert VALIDATOR.is_valid(yaml.safe_load(text))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_do_not(case: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG[case])
    with pytest.raises(InputError):
        Topology.load(path)

    assert not VALIDATOR.is_valid(yaml.safe_load(WRONG[case]))


def fields() -> Iterator[tuple[str, Any]]:
    for title, model in {"Topology": SCHEMA, **SCHEMA["$defs"]}.items():
        for key, field in model["properties"].items():
            yield f"{title}.{key}", field


@pytest.mark.parametrize(("name", "field"), list(fields()), ids=[name for name, _ in fields()])
def test_every_key_is_described(name: str, field: Any) -> None:
    del name
    assert field.get("description"), "write Field(description=...)"
    assert example(field) is not None, "write Field(examples=[...])"
    Draft7Validator({"allOf": [field], "$defs": SCHEMA["$defs"]}).validate(example(field))
