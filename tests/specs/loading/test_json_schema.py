from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from specs.common.errors import UserError
from specs.loading.json_schema import SCHEMA, check_schema, json_schema, write_schema
from specs.loading.settings import ROOT
from specs.loading.yaml_reader import read_document
from specs.schema.base import Section


def problems(value: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with a value, as an editor would say it."""
    Draft202012Validator.check_schema(schema)
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def test_the_committed_schema_is_that_of_the_code(tmp_path: Path) -> None:
    check_schema()
    assert write_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text("utf-8") == SCHEMA.read_text("utf-8")
    (tmp_path / "schema.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match="run `twice schema`"):
        check_schema(tmp_path / "schema.json")


def test_every_field_is_described() -> None:
    schema = json_schema()
    for name, section in {"": schema, **schema["$defs"]}.items():
        for field, value in section["properties"].items():
            assert value.get("description"), f"{name}.{field}"


def test_every_shipped_experiment_is_valid_and_a_misspelt_key_is_not(experiment_path: Path) -> None:
    schema = json_schema()
    value = read_document(experiment_path).value
    assert problems(value, schema) == []
    (misspelt,) = problems(value | {"architecure": {}}, schema)
    assert "'architecure' was unexpected" in misspelt
    assert problems(value | {"cluster": {"device": "V100", "devices": 1, "devices_per_node": 1}}, schema)


def test_quantities_and_included_files_are_written_as_people_write_them() -> None:
    schema = json_schema()
    raw = YAML(typ="safe", pure=True).load((ROOT / "specs" / "experiments" / "code-34b.yaml").read_text("utf-8"))
    assert problems(raw, schema) == []
    assert raw["pretraining"]["tokens"] == "700B"
    assert problems(raw | {"tokenizer": 3}, schema)


def test_a_section_of_another_room_with_the_same_name_does_not_matter() -> None:
    before = json_schema()

    class Claim(Section):
        """Another Claim."""

        value: int

    assert Claim in Section.__subclasses__()
    assert json_schema() == before
