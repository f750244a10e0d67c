"""Limits apply to each entry of ``datasets``."""

from typing import Any

from finetune_api.policy import selections

SPEC: dict[str, Any] = {
    "datasets": [
        {"name": "a", "source": "hf://org/a"},
        {"name": "b", "source": "pvc://rows/b", "tokenSecretRef": {"name": "hf"}},
        {"name": "c", "source": "https://Data.example.com.:8443/x"},
    ]
}


def test_texts_of_all_entries_are_selected() -> None:
    source = ("datasets", "source")
    assert selections.text(source).texts(SPEC) == [e["source"] for e in SPEC["datasets"]]
    assert selections.object_in(source, "pvc://").texts(SPEC) == ["rows"]
    assert selections.host(source, "https://").texts(SPEC) == ["data.example.com"]
    assert selections.text(("datasets", "tokenSecretRef", "name")).texts(SPEC) == ["hf"]
    assert selections.text(source).texts({}) == []


def test_expression_filters_the_list() -> None:
    path = ("datasets", "tokenSecretRef", "name")
    assert selections.text(path).cel("object.spec") == (
        "object.spec.?datasets.orValue([]).filter(d, has(d.tokenSecretRef) && "
        "has(d.tokenSecretRef.name) && (true)).map(d, d.tokenSecretRef.name)"
    )
