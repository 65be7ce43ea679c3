"""How JSON schemas of spec models are generated: draft 7, which every editor knows."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema


class SchemaGenerator(GenerateJsonSchema):
    """Pydantic's generator, but for draft 7, without titles made of keys, and strict about the keys
    of mappings.
    """

    schema_dialect = "http://json-schema.org/draft-07/schema#"

    def generate(
        self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation"
    ) -> JsonSchemaValue:
        """Write every paragraph of a description on one line, however a docstring is wrapped."""
        document = super().generate(schema, mode)
        _join_lines(document)
        return document

    def field_title_should_be_set(self, schema: object) -> bool:
        """Never: a title names a quantity here."""
        return False

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """With `items`, as draft 7 calls `prefixItems`."""
        result = super().tuple_schema(schema)
        if "prefixItems" in result:
            result["items"] = result.pop("prefixItems")
        return result

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """With `propertyNames`, so that a key which does not match is refused instead of
        ignored.
        """
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
        return result


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
