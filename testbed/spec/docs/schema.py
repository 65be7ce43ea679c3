"""The generator of spec models' JSON schemas: draft 7, which every editor knows."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

ATTRIBUTE = re.compile(r"    (?P<name>\w+): (?P<text>.*)")


class SchemaGenerator(GenerateJsonSchema):
    """Pydantic's generator for draft 7: no titles made of keys, and strict keys of mappings."""

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def generate(
        self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation"
    ) -> JsonSchemaValue:
        """Write every paragraph of a description on one line, however a docstring is wrapped."""
        document = super().generate(schema, mode)
        _join_lines(document)
        return document

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Describe each field that has no description as the model's docstring does."""
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
        """Set no title from a field's name, as a title names a quantity."""
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """Name the items of a tuple `items`, as draft 7 does, not `prefixItems`."""
        result = super().tuple_schema(schema)
        if "prefixItems" in result:
            result["items"] = result.pop("prefixItems")
        return result

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Use `propertyNames`, so that a key which does not match is refused, not ignored."""
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result["propertyNames"] = {"pattern": pattern}
            result["additionalProperties"] = values

        return result


def _split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring in Google's style at ``Attributes:``.

    Returns:
        The text before, and the description of each attribute.
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
