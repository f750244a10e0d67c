"""Lists and watch events are decoded to the fields that the cache keeps, and lose none of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.kube.decoding import event_decoder, list_decoder
from finetune_operator.objects.compact.trimming import trimmed
from finetune_operator.objects.compact.used_fields import APPLIED, FIELDS
from finetune_operator.objects.naming import SELECTED_NODE

TEXTS = st.text('ab/é"', max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
MANAGERS = st.lists(
    st.fixed_dictionaries(
        {"manager": TEXTS},
        optional={
            "time": TEXTS,
            "operation": TEXTS,
            "fieldsV1": st.dictionaries(st.sampled_from(["f:spec", "f:status"]), VALUES),
        },
    ),
    max_size=2,
)
METADATA = st.fixed_dictionaries(
    {"name": TEXTS, "namespace": TEXTS, "uid": TEXTS, "resourceVersion": TEXTS},
    optional={
        "labels": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=2),
        "annotations": st.dictionaries(st.sampled_from([SELECTED_NODE, "a"]), TEXTS),
        "ownerReferences": st.lists(st.fixed_dictionaries({"uid": TEXTS}), max_size=2),
        "managedFields": MANAGERS,
        "generation": st.integers(0, 9),
        "finalizers": st.lists(TEXTS, max_size=1),
        "deletionTimestamp": TEXTS,
    },
)


def values(fields: Any) -> st.SearchStrategy[Any]:
    """Return values with some of the fields, and with others that no snapshot uses."""
    if fields is None:
        return VALUES
    if isinstance(fields, list):
        return st.lists(values(fields[0]), max_size=2)
    typed = {"type": TEXTS} if "type" in fields else {}
    inner = {name: values(each) for name, each in fields.items() if name not in typed}
    return st.fixed_dictionaries(typed, optional={**inner, "unused": VALUES})


OBJECTS = {
    kind: st.fixed_dictionaries(
        {"metadata": METADATA}, optional={name: values(each) for name, each in fields.items()}
    )
    for kind, fields in FIELDS.items()
}


def named(kind: str, each: Any) -> Any:
    return {**each, "apiVersion": "v1", "kind": kind}


@pytest.mark.parametrize("kind", FIELDS)
@given(data=st.data())
def test_no_field_of_the_cache_is_lost(kind: str, data: st.DataObject) -> None:
    objects = data.draw(st.lists(OBJECTS[kind], max_size=2))
    page = {"kind": "List", "metadata": {"resourceVersion": "7", "continue": "t"}, "items": objects}
    found = list_decoder(kind, metadata_only=False)(json.dumps(page).encode())
    assert found["metadata"] == page["metadata"]
    expected = [trimmed(named(kind, each)) for each in objects]
    assert [trimmed(named(kind, each)) for each in found["items"]] == expected
    for each, kept in zip(objects, expected, strict=True):
        text = json.dumps({"type": "ADDED", "object": each}).encode()
        event = event_decoder(kind, metadata_only=False)(text)
        assert event["type"] == "ADDED"
        assert trimmed(named(kind, event["object"])) == kept


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_that_are_not_used_are_not_created(kind: str) -> None:
    unused = {"unused": {"x": 1}, "metadata": {"name": "a", "managedFields": [{"a": "b"}], "b": 1}}
    page = list_decoder(kind, metadata_only=False)(json.dumps({"items": [unused]}).encode())
    authors: Any = {"managedFields": [{}]} if kind in APPLIED else {}
    assert page == {"items": [{"metadata": {"name": "a", **authors}}]}


@pytest.mark.parametrize("kind", [*FIELDS, "FineTuneJob", "Event"])
def test_only_the_metadata_is_decoded_if_only_it_is_requested(kind: str) -> None:
    each = {"metadata": {"name": "a", "annotations": {"b": "c"}}, "spec": {"containers": []}}
    page = list_decoder(kind, metadata_only=True)(json.dumps({"items": [each]}).encode())
    assert page == {"items": [{"metadata": {"name": "a", "annotations": {}}}]}


@pytest.mark.parametrize("kind", ["ConfigMap", "Event", "FineTuneJob", "Lease"])
def test_kinds_that_are_used_as_a_whole_are_decoded_completely(kind: str) -> None:
    page = {"items": [{"metadata": {"name": "a", "annotations": {"b": "c"}}, "data": {"d": "e"}}]}
    assert list_decoder(kind, metadata_only=False)(json.dumps(page).encode()) == page
    event = {"type": "ADDED", "object": page["items"][0]}
    assert event_decoder(kind, metadata_only=False)(json.dumps(event).encode()) == event


@pytest.mark.parametrize("kind", [*FIELDS, "ConfigMap"])
@pytest.mark.parametrize("metadata_only", [False, True])
def test_the_status_in_an_event_of_an_error_is_decoded(kind: str, metadata_only: bool) -> None:
    status = {"kind": "Status", "status": "Failure", "code": 410, "message": "too old"}
    text = json.dumps({"type": "ERROR", "object": status}).encode()
    found = event_decoder(kind, metadata_only=metadata_only)(text)
    assert (found["type"], found["object"]["code"]) == ("ERROR", 410)
    assert found["object"]["message"] == "too old"


@pytest.mark.parametrize(
    "text",
    [
        '{"items": {}, "metadata": 1}',
        '{"items": [{"metadata": "x"}]}',
        '{"items": [{"status": {"conditions": {"type": "Ready"}}}]}',
    ],
)
def test_a_text_with_other_types_is_decoded_completely(text: str) -> None:
    assert list_decoder("Pod", metadata_only=False)(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"<html>",
        b'{"items": [',
        b"[1]",
        b"[" * 100_000,
        b'{"items": [{"metadata": {"name": "\xff"}}]}',
        b'{"items": [{"metadata": {"name": "a"}, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}",
    ],
    ids=lambda text: text[:20],
)
def test_a_text_that_is_no_object_becomes_a_message(text: bytes) -> None:
    found = list_decoder("Pod", metadata_only=False)(text)
    assert found.keys() == {"message"}
