"""Events of both APIs: events.k8s.io/v1 and the core group, which old components still write."""

from typing import Any

import pytest

from finetune_operator.objects import events

CREATED = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:05:00Z"


def event(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"creationTimestamp": CREATED}, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"series": {"count": 3, "lastObservedTime": LATER}, "eventTime": CREATED},
        {"deprecatedLastTimestamp": LATER},
        {"lastTimestamp": LATER, "eventTime": None},
        {"eventTime": LATER},
    ],
    ids=["series", "deprecatedLastTimestamp", "lastTimestamp", "eventTime"],
)
def test_the_time_of_an_event_is_that_of_its_last_occurrence(fields: dict[str, Any]) -> None:
    assert events.last_time(event(**fields)) == LATER


def test_an_event_without_times_happened_when_it_was_created() -> None:
    assert events.last_time(event(series=None)) == CREATED
    assert events.last_time({"metadata": {}}) == ""


def test_the_text_is_the_message_of_either_api_or_the_reason() -> None:
    assert events.text(event(note="note", message="message", reason="Reason")) == "note"
    assert events.text(event(message="message", reason="Reason")) == "message"
    assert events.text(event(reason="Reason")) == "Reason"


def test_the_object_is_that_of_either_api() -> None:
    pod = {"kind": "Pod", "name": "a"}
    assert events.regarding(event(regarding=pod)) == pod
    assert events.regarding(event(involvedObject=pod)) == pod
    assert events.regarding(event()) == {}
