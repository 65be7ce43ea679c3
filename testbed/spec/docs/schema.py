"""The generator of JSON schemas of spec models, in draft 7, which every editor supports."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

ATTRIBUTE = re.compile(r"    (?P<name>\w+): (?P<text>.*)")


class SchemaGenerator(GenerateJsonSchema):
    """Pydantic's generator for draft 7, without titles from keys and with strict mapping keys."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def generate(
        self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation"
    ) -> JsonSchemaValue:
        """Return the schema, with every paragraph of a description on one line."""
        document = super().generate(schema, mode)
        _join_lines(document)
        return document

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return a model's schema, with missing descriptions taken from its docstring."""
        result = super().model_schema(schema)
        model = schema["cls"]
        summary, attributes = _split_docstring(inspect.getdoc(model) or "")
        if not attributes:
            return result

        result["description"] = summary
        for name, field in model.model_fields.items():
            key = field.serialization_alias or field.alias or name
            if name in attributes:
                result["properties"][key].setdefault("description", attributes[name])
        return result

    def field_title_should_be_set(self, schema: object) -> bool:
        """Return False, so that titles name quantities and not fields."""
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """Return a tuple's schema, with `items` as in draft 7 instead of `prefixItems`."""
        result = super().tuple_schema(schema)
        if "prefixItems" in result:
            result["items"] = result.pop("prefixItems")
        return result

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Return a mapping's schema with `propertyNames`, so that wrong keys are errors."""
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result["propertyNames"] = {"pattern": pattern}
            result["additionalProperties"] = values

        return result


def _split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a Google style docstring at ``Attributes:``.

    Returns:
        The text before ``Attributes:``, and the description of each attribute.
    """
    summary, _, section = text.partition("\nAttributes:\n")
    attributes: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = ATTRIBUTE.fullmatch(line)
        if match:
            name = match["name"]
            attributes[name] = match["text"]
        elif name:
            attributes[name] += f" {line.strip()}"
    return summary.strip(), attributes


def _join_lines(node: Any) -> None:
    """Join the lines of each paragraph in the descriptions below `node`."""
    if isinstance(node, dict):
        description = node.get("description")
        if isinstance(description, str):
            node["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", description)

        for value in node.values():
            _join_lines(value)
    elif isinstance(node, list):
        for item in node:
            _join_lines(item)
