"""Events that notify the controller, and the settings that restrict kopf to watches."""

import itertools
from typing import Any

import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.structs.references import Resource

from finetune_operator.controller.handlers import EndlessBackoff, NoMemory, registry, settings
from finetune_operator.kube.kinds import KINDS
from finetune_operator.objects.digest import job_version, object_version
from finetune_operator.snapshot.cache import WATCHED_CHILDREN
from finetune_operator.types import Key


def body(**changes: Any) -> dict[str, Any]:
    metadata = {
        "uid": "u",
        "name": "demo",
        "generation": 1,
        "resourceVersion": "1",
        "managedFields": [],
        "labels": {"team": "a"},
        "annotations": {"note": "x"},
    }
    return {"metadata": metadata | changes.pop("metadata", {}), "spec": {"a": 1}} | changes


@given(
    status=st.dictionaries(st.text(max_size=5), st.integers()),
    version=st.text(max_size=5),
    fields=st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), max_size=2),
)
def test_a_status_write_does_not_change_the_version_of_a_job(
    status: dict[str, int], version: str, fields: list[dict[str, str]]
) -> None:
    changes = {"resourceVersion": version, "managedFields": fields, "annotations": {"a": version}}
    written = body(status=status, metadata=changes)
    assert job_version(written) == job_version(body())


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"a": 2}},
        {"metadata": {"generation": 2}},
        {"metadata": {"labels": {"team": "b"}}},
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"metadata": {"uid": "another"}},
    ],
    ids=str,
)
def test_every_other_change_changes_the_version_of_a_job(change: dict[str, Any]) -> None:
    assert job_version(body(**change)) != job_version(body())


def test_the_version_of_a_child_is_its_uid_and_resource_version() -> None:
    assert object_version(body(spec={"a": 2})) == object_version(body())
    assert object_version(body(metadata={"resourceVersion": "2"})) != object_version(body())
    assert object_version(body(metadata={"uid": "another"})) != object_version(body())


@pytest.mark.parametrize("type_", ["ADDED", "MODIFIED", "DELETED", None])
@pytest.mark.parametrize("kind", ["FineTuneJob", *WATCHED_CHILDREN])
async def test_an_event_notifies_with_key_kind_and_version(kind: str, type_: str | None) -> None:
    """A deleted object, and one of an initial list, has no version: it is always news."""
    calls: list[tuple[Key, str, int | None]] = []
    handlers = registry(lambda *call: calls.append(call))
    plural = KINDS[kind].plural
    (handler,) = (each for each in handlers._watching.get_all_handlers() if each.id == plural)
    name = "demo" if kind == "FineTuneJob" else "demo-r1-train-1"
    labels = {"finetune.dev/job": "demo"}
    function: Any = handler.fn
    await function(type=type_, body=body(), name=name, namespace="a", labels=labels, logger=None)
    version_of = job_version if kind == "FineTuneJob" else object_version
    version = version_of(body()) if type_ in ("ADDED", "MODIFIED") else None
    assert calls == [(("a", "demo"), kind, version)]


@pytest.mark.parametrize("kind", WATCHED_CHILDREN)
def test_only_children_with_the_label_are_watched(kind: str) -> None:
    group, version, plural = KINDS[kind].resource
    selectors = settings().watching.label_selectors
    resource = Resource(group=group, version=version, plural=plural)
    assert selectors.collect(resource) == ["finetune.dev/job"]


def test_all_jobs_are_watched() -> None:
    resource = Resource(group="finetune.dev", version="v1alpha1", plural="finetunejobs")
    assert settings().watching.label_selectors.collect(resource) == []


def test_requests_are_retried_forever_at_most_8_seconds_apart() -> None:
    delays = settings().networking.error_backoffs
    assert isinstance(delays, EndlessBackoff)
    for _ in range(2):
        taken = list(itertools.islice(delays, 1000))
        assert (len(taken), taken[0], max(taken)) == (1000, 0.5, 8.0)


def test_no_handler_makes_kopf_write_to_an_object() -> None:
    handlers = registry(lambda key, kind, version: None)
    assert isinstance(handlers, kopf.OperatorRegistry)
    assert len(handlers._watching.get_all_handlers()) == 1 + len(WATCHED_CHILDREN)
    assert not list(handlers._changing.get_all_handlers())
    assert not list(handlers._spawning.get_all_handlers())
    assert not list(handlers._indexing.get_all_handlers())


async def test_kopf_private_inventory_is_as_assumed() -> None:
    """``kopf._core.reactor.inventory`` is private: this fails if a kopf release changes it."""
    from kopf._core.reactor import inventory

    assert issubclass(NoMemory, inventory.ResourceMemories)
    ordinary: Any = inventory.ResourceMemories()
    record = await ordinary.recall(body(), noticed_by_listing=True)
    assert await ordinary.recall(body()) is record, "kopf keeps a record, which NoMemory prevents"
    memories: Any = NoMemory()
    first = await memories.recall(body(), noticed_by_listing=True)
    assert isinstance(first, inventory.ResourceMemory)
    assert first.noticed_by_listing
    assert await memories.recall(body()) is not first
    await memories.forget(body())
    assert not list(memories.iter_all_memories())
