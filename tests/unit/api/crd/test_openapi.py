"""The generated CRD: its files are up to date, and its schema keeps the promises of the API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.api.leaves import LEAVES, Leaf

from finetune_api.crd import generate
from finetune_api.crd.definition import custom_resource_definition
from finetune_api.markers import Edit

Schema = dict[str, Any]


def _root() -> Schema:
    version: Schema = custom_resource_definition()["spec"]["versions"][0]
    root: Schema = version["schema"]["openAPIV3Schema"]
    return root


def _all(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _all(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _all(schema[key], f"{path}[]")


SPEC = dict(_all(_root()["properties"]["spec"], "spec"))
STATUS = dict(_all(_root()["properties"]["status"], "status"))


def _schema_of(leaf: Leaf) -> Schema:
    path = f"spec.{leaf}".replace("tolerations.", "tolerations[].")
    return SPEC[path]


def test_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "crds" / "stale.yaml"
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "TARGETS", (stale,))
    assert generate.main(["--check"]) == 1
    assert "crds/stale.yaml is not up to date: run `make generate`" in capsys.readouterr().out
    assert not stale.exists()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_two_files_are_the_same() -> None:
    first, second = (path.read_bytes() for path in generate.TARGETS)
    assert first == second


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_a_description_says_value_and_effect(leaf: Leaf) -> None:
    said = _schema_of(leaf)["description"]
    assert said.endswith(str(leaf.edit))
    assert said.count("An edit ") == 1
    required = leaf.info.is_required()
    assert ("Built-in value: " in said) is not required


def test_everything_is_described() -> None:
    bare = [
        path
        for path, schema in {**SPEC, **STATUS}.items()
        if not schema.get("description") and not path.endswith("[]")
    ]
    assert bare == []


def test_every_value_is_bounded() -> None:
    """What has no bound costs the API server's rules their budget, and fits no ConfigMap."""
    for path, schema in SPEC.items():
        kind = schema.get("type")
        if kind == "array":
            assert "maxItems" in schema, path
        elif kind == "object" and "properties" not in schema:
            assert "maxProperties" in schema, path
        elif kind == "string":
            assert {"maxLength", "enum"} & schema.keys(), path
        elif kind == "integer":
            assert "minimum" in schema, path


def test_no_bound_is_a_fraction() -> None:
    """The API server rounds it where the value is whole; such a bound has to be a rule."""
    for path, schema in SPEC.items():
        for bound in ("minimum", "maximum"):
            assert float(schema.get(bound, 0)).is_integer(), path


def test_the_status_alone_has_a_default() -> None:
    assert [path for path, schema in SPEC.items() if "default" in schema] == []
    assert [path for path, schema in STATUS.items() if "default" in schema] == ["status"]
    assert STATUS["status"]["default"] == {"observedGeneration": -1}


def test_nothing_takes_unknown_fields() -> None:
    for schema in (*SPEC.values(), *STATUS.values()):
        assert "x-kubernetes-preserve-unknown-fields" not in schema


def test_names_are_kubernetes_names() -> None:
    for path in {**SPEC, **STATUS}:
        last = path.rsplit(".", 1)[-1].removesuffix("[]")
        assert last[0].islower(), path
        assert last.isalnum(), path


def test_the_crd_can_be_applied_by_kubectl() -> None:
    """Client-side apply keeps a copy in an annotation, of at most 262,144 bytes."""
    assert len(generate.rendered().encode()) < 200_000


def test_each_edit_class_reads_differently() -> None:
    assert len({str(edit) for edit in Edit}) == len(Edit)
