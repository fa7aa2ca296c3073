"""The JSON Schema of an experiment file, with a description for every field, for completion in editors."""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from specs.common.errors import UserError
from specs.common.files import write_bytes
from specs.loading.settings import ROOT
from specs.schema.base import Section
from specs.schema.experiment import Experiment
from specs.schema.rationale import description

SCHEMA = ROOT / "specs" / "schema.json"
_NUMBER = "[+-]?[0-9][0-9_]*(\\.[0-9]+)?([eE][+-]?[0-9]+)?"
_QUANTITY = {"type": "string", "pattern": f"^{_NUMBER}\\s*(%|[kMGBT]|[KMGT]i)?B?$"}
_INCLUDE = {"type": "string", "pattern": "^\\.\\.?/.*\\.yaml$", "description": "A file that holds this section."}


class _Quantities(GenerateJsonSchema):
    """Numbers may be written as people write them (`700B`), which their validators turn into numbers."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), _QUANTITY]}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), _QUANTITY]}


def json_schema() -> dict[str, Any]:
    """The schema of `specs/experiments/*.yaml`, draft 2020-12."""
    schema = Experiment.model_json_schema(schema_generator=_Quantities)
    sections = {"Experiment": schema, **schema["$defs"]}
    classes = _classes(Section)
    for name, section in sections.items():
        for field, value in section.get("properties", {}).items():
            if "description" not in value and (text := description(classes[name], field)):
                value["description"] = text
        section["properties"] = {key: _with_includes(value) for key, value in section.get("properties", {}).items()}
        section.pop("title", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "twice experiment", **schema}


def render_schema() -> str:
    """The schema as text, the same for equal code."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def write_schema(path: Path = SCHEMA) -> bool:
    """Write the schema; says whether it changed."""
    text = render_schema()
    if path.exists() and path.read_text("utf-8") == text:
        return False
    write_bytes(path, text.encode())
    return True


def check_schema(path: Path = SCHEMA) -> None:
    """Raise UserError where the committed schema is not that of the code."""
    if not path.exists() or path.read_text("utf-8") != render_schema():
        raise UserError(f"{path.name} is stale; run `twice schema`")


def _with_includes(value: dict[str, Any]) -> dict[str, Any]:
    """A section may also be the path of a file that holds it."""
    if "$ref" in value:
        described: dict[str, Any] = {key: value[key] for key in ("description", "default") if key in value}
        return described | {"anyOf": [{"$ref": value["$ref"]}, _INCLUDE]}
    if isinstance(items := value.get("items"), dict) and "$ref" in items:
        return {**value, "items": {"anyOf": [items, _INCLUDE]}}
    value.pop("title", None)
    return value


def _classes(base: type[Section]) -> dict[str, type[Section]]:
    """Sections of the schema by name: other rooms have sections of their own, which may bear the same names."""
    inner = {name: kind for below in base.__subclasses__() for name, kind in _classes(below).items()}
    return inner | ({base.__name__: base} if base.__module__.startswith("specs.schema.") else {})
