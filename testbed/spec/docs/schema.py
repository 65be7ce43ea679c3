"""The generator of spec models' JSON schemas: draft 7, which every editor knows."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema


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
