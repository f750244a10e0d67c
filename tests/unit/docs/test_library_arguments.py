"""The page that maps the arguments of TRL, PEFT and transformers to fields names existing ones."""

import re
from typing import Any

import pytest
from tests.unit.docs.links import ROOT
from tests.unit.docs.test_manifests import SCHEMA

PAGE = ROOT / "docs" / "reference" / "from-trl-and-peft.md"
TABLE_ROW = re.compile(r"^\| `[^|]+ \| ([^|]+) \|", re.MULTILINE)
FIELDS = [path for cell in TABLE_ROW.findall(PAGE.read_text()) for path in cell.split(", ")]


def exists(path: str, schema: dict[str, Any]) -> bool:
    for step in path.split("."):
        schema = schema.get("properties", {}).get(step)
        if schema is None:
            return False
    return True


@pytest.mark.parametrize("path", sorted({path for path in FIELDS if path != "none"}))
def test_field_exists(path: str) -> None:
    assert exists(path.strip("`"), SCHEMA)


def test_missing_fields_are_found() -> None:
    assert not exists("training.lora.rank", SCHEMA)
    assert len(FIELDS) > 40
