"""The reference page of the topology file, made from the file's JSON schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from testbed.core.units import DECIMAL_SIZE, PERCENTAGE, RATE, TIME
from testbed.spec.topology import Topology
from testbed.spec.wan import ARROW

Schema = Mapping[str, Any]
Models = Mapping[str, Schema]  # schemas of all models by title
KINDS = {"integer": "whole number", "boolean": "`true`, `false`", "string": "text"}

HEAD = """# Topology files

`make docs` writes this page from the models in `testbed/spec/`. [Topologies](topologies.md)
explains the language by examples. `topologies/schema.json` has the same information for editors.

A quantity is a number and a unit. Only 0 needs no unit, and a rate must be greater than 0. Keys
that begin with `x-` are ignored; any other unknown key is an error.

Where *per direction* says yes, the value may also be a mapping such as
`{iowa->ohio: 10 Gbit/s, ohio->iowa: 1 Gbit/s}`, in an entry with `between`. A direction without a
value has that of the shorthand or of `defaults`.
"""


def reference() -> str:
    """Return the page as Markdown: every key with values, unit, default and example."""
    schema = Topology.json_schema()
    root = schema["title"]
    models = {root: schema, **schema["$defs"]}

    lines = [HEAD, *_units()]
    for title, paths in _paths(root, models).items():
        lines += _section(title, paths, models)
    return "\n".join(lines).rstrip()


def example(field: Schema) -> Any:
    """Return an example value of `field`: a given example, one of its type, or the default."""
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
    """Yield the lines of the table of units."""
    yield "| quantity | units | also read |"
    yield "|---|---|---|"
    for quantity in (RATE, TIME, DECIMAL_SIZE, PERCENTAGE):
        units = _code_list(quantity.units)
        synonyms = _code_list(quantity.synonyms)
        yield f"| {quantity.name} | {units} | {synonyms} |"

    yield ""


def _code_list(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _paths(root: str, models: Models) -> dict[str, list[str]]:
    """Return the keys at which each model appears in the file, breadth first.

    Args:
        root: Title of the model of the whole file.
        models: All models.

    Returns:
        Dotted keys of each place, by title of the model; empty for the root.
    """
    paths: dict[str, list[str]] = {}
    waiting = [("", root)]
    while waiting:
        path, title = waiting.pop(0)
        paths.setdefault(title, []).append(path)
        for key, field in models[title]["properties"].items():
            for suffix, model_below in _references(field):
                path_below = f"{path}.{key}{suffix}".lstrip(".")
                waiting.append((path_below, model_below))

    return paths


def _references(field: Schema) -> Iterator[tuple[str, str]]:
    """Yield the models in `field`: the suffix of the key, and the title of the model."""
    if "$ref" in field:
        yield "", _title(field)

    items = field.get("items")
    if isinstance(items, Mapping):
        for suffix, title in _references(items):
            yield f"[]{suffix}", title

    values = field.get("additionalProperties")
    if isinstance(values, Mapping) and not _is_per_direction(field):
        for suffix, title in _references(values):
            yield f".NAME{suffix}", title

    for alternative in field.get("anyOf", field.get("oneOf", [])):
        yield from _references(alternative)


def _title(field: Schema) -> str:
    """Return the title of the model that `field` refers to."""
    reference_path: str = field["$ref"]
    return reference_path.rpartition("/")[2]


def _section(title: str, paths: list[str], models: Models) -> Iterator[str]:
    """Yield the lines of a model's section."""
    model = models[title]
    place = f"At {_code_list(paths)}." if any(paths) else "The file itself."
    yield f"## {title}"
    yield ""
    yield f"{place} {model['description']}"
    yield ""

    larger = _larger_model(title, models)
    if larger is None:
        yield from _table(model)
    else:
        larger_keys = models[larger]["properties"]
        other_keys = [key for key in larger_keys if key not in model["properties"]]
        yield f"The keys are those of {_link(larger)}, without {_code_list(other_keys)}."

    yield ""


def _larger_model(title: str, models: Models) -> str | None:
    """Return a model that has all keys of the model `title` and more; None without one."""
    fields = models[title]["properties"]
    for other, model in models.items():
        other_fields = model["properties"]
        has_all = all(other_fields.get(key) == field for key, field in fields.items())
        if has_all and len(fields) < len(other_fields):
            return other

    return None


def _table(model: Schema) -> Iterator[str]:
    """Yield the lines of the table of a model's keys."""
    yield "| key | value | default | per direction | meaning | example |"
    yield "|---|---|---|---|---|---|"
    required = model.get("required", [])
    for key, field in model["properties"].items():
        per_direction = any(_is_per_direction(part) for part in _alternatives(field))
        cells = [
            f"`{key}`",
            _value(field),
            "required" if key in required else _default(field),
            "yes" if per_direction else "",
            field["description"],
            f"`{_example_text(key, field)}`",
        ]
        escaped = [cell.replace("|", "\\|") for cell in cells]
        yield f"| {' | '.join(escaped)} |"


def _example_text(key: str, field: Schema) -> str:
    """Return an example of a key and its value, on one line."""
    mapping = yaml.safe_dump(
        {key: example(field)},
        sort_keys=False,
        default_flow_style=True,
        width=math.inf,
    )
    return mapping.strip().removeprefix("{").removesuffix("}")


def _default(field: Schema) -> str:
    """Return the text of a field's default; empty without one, or if the default is a model."""
    default = field.get("default")
    if default in (None, "", []):
        return ""

    refers_to_model = any("$ref" in part for part in _alternatives(field))
    if refers_to_model and isinstance(default, Mapping):
        return ""
    return f"`{_text(default)}`"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_per_direction(field: Schema) -> bool:
    return bool(field.get("propertyNames") == {"pattern": ARROW})


def _alternatives(field: Schema) -> Iterator[Schema]:
    """Yield the types of `field`, without null and without the alternative 0 of a quantity."""
    parts = field.get("anyOf", field.get("oneOf"))
    if parts is None:
        yield field
        return

    for part in parts:
        is_null = part.get("type") == "null"
        is_zero = part == {"const": 0}
        if not is_null and not is_zero:
            yield from _alternatives(part)


def _value(field: Schema) -> str:
    """Return a description of the kinds of value of `field`."""
    kinds: list[str] = []
    for part in _alternatives(field):
        if not _is_per_direction(part):
            kinds.append(_kind(part))

    return " or ".join(dict.fromkeys(kinds))


def _kind(field: Schema) -> str:
    """Return a description of one kind of value."""
    if "$ref" in field:
        return _link(_title(field))
    if "enum" in field:
        return _code_list(_text(value) for value in field["enum"])
    if "const" in field:
        return f"`{_text(field['const'])}`"

    json_type = field["type"]
    if json_type == "array":
        return _kind_of_list(field["items"])
    if json_type == "object":
        return f"mapping of names to {_value(field['additionalProperties'])}"

    name = field.get("title", KINDS.get(json_type, json_type))
    return f"{name}{_range(field)}"


def _kind_of_list(items: Schema | list[Schema]) -> str:
    if isinstance(items, Mapping):
        return f"list of {_value(items)}"

    kinds = [_value(item) for item in items]
    return f"list of {len(kinds)}: {', '.join(kinds)}"


def _range(field: Schema) -> str:
    low = field.get("minimum")
    high = field.get("maximum")
    if low is None and high is None:
        return ""
    if high is None:
        return f", at least {low}"
    if low is None:
        return f", at most {high}"
    return f", {low} to {high}"


def _link(title: str) -> str:
    return f"[{title}](#{title.lower()})"
