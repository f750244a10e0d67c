"""Limits apply to each entry of ``datasets``."""

from typing import Any

from finetune_api.policy import admission, selections

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


def test_each_variable_of_the_admission_policy_has_its_own_name() -> None:
    """The API server would silently use the last of two variables with one name."""
    names = [variable["name"] for variable in admission.variables()]
    assert len(names) > 40
    assert sorted(names) == sorted(set(names))
