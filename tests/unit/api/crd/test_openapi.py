"""The schema of the CRD is structural, bounded and described."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.support.leaves import LEAVES, Leaf, path_of

from finetune_api.crd.definition import custom_resource_definition
from finetune_api.crd.generate import crd_file
from finetune_api.crd.resources import FINETUNEJOB
from finetune_api.markers import Edit

Schema = dict[str, Any]


def _root() -> Schema:
    version: Schema = custom_resource_definition(FINETUNEJOB)["spec"]["versions"][0]
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
    return SPEC[path_of(leaf)]


@pytest.mark.parametrize("leaf", LEAVES, ids=str)
def test_description_ends_with_default_and_effect_of_a_change(leaf: Leaf) -> None:
    description = _schema_of(leaf)["description"]
    assert description.endswith(f" {leaf.edit}")
    assert [description.count(f" {edit}") for edit in Edit].count(1) == 1
    defaults = description.count(" Default: ") + description.count(" If unset, ")
    assert defaults == (0 if leaf.info.is_required() else 1)


@pytest.mark.parametrize("path", [path for path in (*SPEC, *STATUS) if not path.endswith("[]")])
def test_description_is_short_and_made_of_sentences(path: str) -> None:
    """At most 400 characters, including the default and the effect of a change."""
    description = {**SPEC, **STATUS}[path]["description"]
    assert description.endswith("."), description
    assert not description[0].islower(), description
    assert len(description) <= 400, description


def test_every_field_has_a_description() -> None:
    bare = [
        path
        for path, schema in {**SPEC, **STATUS}.items()
        if not schema.get("description") and not path.endswith("[]")
    ]
    assert bare == []


def test_every_value_is_bounded() -> None:
    """Without bounds the rules exceed the API server's cost limit, and a ConfigMap may overflow."""
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
    """The API server rounds a fractional bound if the value is whole; a rule must check it."""
    for path, schema in SPEC.items():
        for bound in ("minimum", "maximum"):
            assert float(schema.get(bound, 0)).is_integer(), path


def test_only_the_status_has_a_schema_default() -> None:
    assert [path for path, schema in SPEC.items() if "default" in schema] == []
    assert [path for path, schema in STATUS.items() if "default" in schema] == ["status"]
    assert STATUS["status"]["default"] == {"observedGeneration": -1}


def test_no_object_accepts_unknown_fields() -> None:
    for schema in (*SPEC.values(), *STATUS.values()):
        assert "x-kubernetes-preserve-unknown-fields" not in schema


def test_field_names_are_camel_case() -> None:
    for path in {**SPEC, **STATUS}:
        last = path.rsplit(".", 1)[-1].replace("[]", "")
        assert last[0].islower(), path
        assert last.isalnum(), path


def test_crd_fits_the_annotation_of_kubectl_apply() -> None:
    """Client-side apply stores a copy, as JSON, in an annotation of at most 262,144 bytes."""
    stored = json.dumps(yaml.safe_load(crd_file(FINETUNEJOB)), separators=(",", ":"))
    assert len(stored.encode()) < 240_000


def test_each_edit_class_has_a_sentence_of_its_own() -> None:
    assert len({str(edit) for edit in Edit}) == len(Edit)
