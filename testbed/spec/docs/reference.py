"""The reference page of the topology file, made from its JSON schema: every key, value, unit,
default and example.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from testbed.core.units import DECIMAL_SIZE, PERCENTAGE, RATE, TIME
from testbed.spec.topology import Topology
from testbed.spec.wan import ARROW

Schema = Mapping[str, Any]
KINDS = {"integer": "whole number", "boolean": "`true`, `false`", "string": "text"}

HEAD = """# Topology file: reference

Made from the models in `testbed/spec/` by `make docs`. [topologies.md](topologies.md) explains the language by
examples; [topologies/schema.json](../topologies/schema.json) is the same for editors.

A quantity is a number and a unit; only 0 needs none, and a rate is never 0. A key that begins with `x-` is ignored,
every other unknown key is an error. Where *per direction* says yes, the value may also be a mapping such as
`{iowa->ohio: 10 Gbit/s, ohio->iowa: 1 Gbit/s}` in an entry with `between`; a direction that is not named has what the
shorthand or `defaults` say.
"""


def reference() -> str:
    """The page, as Markdown."""
    schema = Topology.json_schema()
    models = {schema["title"]: schema, **schema["$defs"]}
    paths = _paths(schema["title"], models)
    sections = (line for title in paths for line in _section(title, paths[title], models))
    return "\n".join([HEAD, *_units(), *sections]).rstrip()


def example(field: Schema) -> Any:
    """A value that `field` may have: its example if it has one, else one of its type's, else its
    default.
    """
    return next(_examples(field), field.get("default"))


def _examples(field: Schema) -> Iterator[Any]:
    yield from field.get("examples", [])
    yield from field.get("enum", [])[1:]
    for alternative in _alternatives(field):
        if alternative is not field:
            yield from _examples(alternative)
    if "const" in field:
        yield field["const"]


def _units() -> Iterator[str]:
    yield "| quantity | units | also read |"
    yield "|---|---|---|"
    for quantity in (RATE, TIME, DECIMAL_SIZE, PERCENTAGE):
        units, synonyms = (
            ", ".join(f"`{unit}`" for unit in names)
            for names in (quantity.units, quantity.synonyms)
        )
        yield f"| {quantity.name} | {units} | {synonyms} |"
    yield ""


def _paths(title: str, models: Mapping[str, Schema]) -> dict[str, list[str]]:
    """Where in the file each model stands, as dotted keys, in the order in which a reader meets
    them.
    """
    paths: dict[str, list[str]] = {}
    waiting = [("", title)]
    while waiting:
        path, title = waiting.pop(0)
        paths.setdefault(title, []).append(path)
        for key, field in models[title]["properties"].items():
            for way, below in _references(field):
                waiting.append((f"{path}.{key}{way}".lstrip("."), below))
    return paths


def _references(field: Schema) -> Iterator[tuple[str, str]]:
    """The models that `field` holds: how to get from the key to them, and their titles."""
    if "$ref" in field:
        yield "", field["$ref"].rpartition("/")[2]
    if isinstance(field.get("items"), Mapping):
        yield from ((f"[]{way}", title) for way, title in _references(field["items"]))
    if isinstance(field.get("additionalProperties"), Mapping) and not _is_per_direction(field):
        yield from (
            (f".NAME{way}", title) for way, title in _references(field["additionalProperties"])
        )
    for alternative in field.get("anyOf", field.get("oneOf", [])):
        yield from _references(alternative)


def _section(title: str, paths: list[str], models: Mapping[str, Schema]) -> Iterator[str]:
    model = models[title]
    yield f"## {title}"
    yield ""
    if any(paths):
        yield f"At {', '.join(f'`{path}`' for path in paths)}. {model['description']}"
    else:
        yield f"The file itself. {model['description']}"
    yield ""
    larger = _larger(title, models)
    if larger is not None:
        others = [key for key in models[larger]["properties"] if key not in model["properties"]]
        yield f"The keys are those of {_link(larger)}, without {', '.join(f'`{key}`' for key in others)}."
    else:
        yield "| key | value | default | per direction | meaning | example |"
        yield "|---|---|---|---|---|---|"
        for key, field in model["properties"].items():
            yield _row(key, field, key in model.get("required", []))
    yield ""


def _larger(title: str, models: Mapping[str, Schema]) -> str | None:
    """The model that has all keys of the model `title`, and others."""
    own = models[title]["properties"]
    for other, model in models.items():
        keys = model["properties"]
        if len(own) < len(keys) and all(keys.get(key) == field for key, field in own.items()):
            return other
    return None


def _row(key: str, field: Schema, required: bool) -> str:
    written = yaml.safe_dump(
        {key: example(field)}, sort_keys=False, default_flow_style=True, width=math.inf
    ).strip()
    default = field.get("default")
    shown = (
        "required"
        if required
        else ""
        if default in (None, "", []) or _is_model(field)
        else f"`{_text(default)}`"
    )
    each = "yes" if any(_is_per_direction(part) for part in _alternatives(field)) else ""
    cells = [f"`{key}`", _value(field), shown, each, field["description"], f"`{written[1:-1]}`"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_model(field: Schema) -> bool:
    return any("$ref" in part for part in _alternatives(field)) and isinstance(
        field.get("default"), Mapping
    )


def _is_per_direction(field: Schema) -> bool:
    return bool(field.get("propertyNames") == {"pattern": ARROW})


def _alternatives(field: Schema) -> Iterator[Schema]:
    """What `field` may be, without null and without the 0 that stands beside a text with a unit."""
    parts = field.get("anyOf", field.get("oneOf"))
    if parts is None:
        yield field
        return
    for part in parts:
        if part.get("type") != "null" and part != {"const": 0}:
            yield from _alternatives(part)


def _value(field: Schema) -> str:
    """The kind of value, in words."""
    kinds = [_kind(part) for part in _alternatives(field) if not _is_per_direction(part)]
    return " or ".join(dict.fromkeys(kinds))


def _kind(field: Schema) -> str:
    if "$ref" in field:
        return _link(field["$ref"].rpartition("/")[2])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{_text(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field["items"]
        if isinstance(items, list):
            return f"list of {len(items)}: {', '.join(_value(item) for item in items)}"
        return f"list of {_value(items)}"
    if field["type"] == "object":
        return f"mapping of names to {_value(field['additionalProperties'])}"
    return str(field.get("title", KINDS.get(field["type"], field["type"]))) + _range(field)


def _range(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    return (
        f", at least {low}" if low is not None else f", at most {high}" if high is not None else ""
    )


def _link(title: str) -> str:
    return f"[{title}](#{title.lower()})"
