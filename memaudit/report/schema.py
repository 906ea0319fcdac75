"""JSON Schema (2020-12) of report.json, made from its model."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from memaudit.report.model import Report


class _Untitled(GenerateJsonSchema):
    """Leave out titles of fields, which only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False for every field."""
        return False


def schema() -> dict[str, Any]:
    """Return the schema, which the package also holds as ``report.schema.json``."""
    return Report.model_json_schema(schema_generator=_Untitled)
