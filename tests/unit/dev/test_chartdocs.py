"""The generated reference of chart values: parsing values.yaml, and writing the tables."""

import json
from pathlib import Path

import pytest

from chartdocs.__main__ import BEGIN, tables
from chartdocs.schema import QUANTITY, partial, with_schema
from chartdocs.values import UndocumentedValue, parse
from cluster import paths
from generated_part import END, check, with_lines, write

VALUES = """\
# Comment of the file.

## Operator

# Number of
# replicas.
replicas: 2

# Limits.
resources:
  limits:
    memory: 1Gi

## Jobs

image:
  # Either `a` | `b`.
  name: ""

# Defaults. For example:
#   size: 1Gi
defaults:
  # Labels.
  labels: {a: b}
"""


def test_comments_describe_the_value_below_them() -> None:
    found = {
        value.path: (value.section, value.description, value.default) for value in parse(VALUES)
    }
    assert found == {
        "replicas": ("Operator", "Number of replicas.", "2"),
        "resources": ("Operator", "Limits.", "{limits: {memory: 1Gi}}"),
        "image.name": ("Jobs", "Either `a` | `b`.", '""'),
        "defaults": ("Jobs", "Defaults. For example:", None),
        "defaults.labels": ("Jobs", "Labels.", "{a: b}"),
    }


def test_indented_comment_lines_are_an_example() -> None:
    (defaults,) = (value for value in parse(VALUES) if value.path == "defaults")
    assert defaults.example == ("size: 1Gi",)


def test_value_without_comment_is_reported_with_its_line() -> None:
    with pytest.raises(UndocumentedValue, match=r"^image\.tag in line 4 has no comment: add one"):
        parse("image:\n  # Name.\n  name: a\n  tag: b\n")


def test_each_section_becomes_a_table() -> None:
    lines = list(tables(parse(VALUES)))
    assert [line for line in lines if line.startswith("#")] == ["### Operator", "### Jobs"]
    assert "| `replicas` | Number of replicas. | `2` |" in lines
    assert '| `image.name` | Either `a` \\| `b`. | `""` |' in lines
    assert "| `defaults` | Defaults. For example:<br>`size: 1Gi` |  |" in lines


def test_page_keeps_the_text_around_its_markers() -> None:
    page = f"before\n{BEGIN}\nstale\n{END}\nafter\n"
    current = with_lines(page, BEGIN, ["new", ""])
    assert current == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert with_lines(current, BEGIN, ["new", ""]) == current


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}"], ids=["none", "begin", "reversed"])
def test_page_without_markers_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="the page needs the lines"):
        with_lines(page, BEGIN, [])


def test_a_file_with_another_text_is_reported_with_the_command_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "REPO", tmp_path)
    files = {tmp_path / "a.md": "–\n", tmp_path / "b.md": "new\n"}
    write(files)
    assert check(files, "make generate") == 0
    (tmp_path / "b.md").write_text("old\n")
    assert check(files, "make generate") == 1
    assert capsys.readouterr().err == "b.md is stale: run make generate\n"


def test_a_partial_schema_requires_nothing_and_rejects_unknown_fields() -> None:
    number = {"type": "number", "minimum": 0, "exclusiveMinimum": True, "description": "x"}
    amount = {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
    }
    found = partial(
        {
            "type": "object",
            "required": ["rate"],
            "properties": {
                "rate": number,
                "size": amount,
                "mode": {"type": "string", "enum": ["a"]},
            },
        }
    )
    assert found == {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "rate": {"type": ["number", "null"], "exclusiveMinimum": 0},
            "size": {"type": ["integer", "string", "null"], "pattern": QUANTITY},
            "mode": {"type": ["string", "null"], "enum": ["a", None]},
        },
    }


def test_the_generated_definition_replaces_the_last_one() -> None:
    with pytest.raises(ValueError, match="the last definition must be"):
        with_schema("{}\n")
    before = '{\n  "definitions": {\n    "a": {}'
    text = with_schema(f'{before},\n    "fineTuneJobSpec": {{"stale": 1}}\n  }}\n}}\n')
    assert text.startswith(f"{before},\n")
    assert (
        "storageClassName"
        in json.loads(text)["definitions"]["fineTuneJobSpec"]["properties"]["storage"]["properties"]
    )
    assert with_schema(text) == text
