"""The FineTuneJobs that kopf delivers, and the settings that restrict kopf to one watch."""

import itertools
from collections.abc import Callable
from typing import Any

import kopf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kopf._cogs.structs.references import Resource
from tests.fakes.kube_client import job

from finetune_operator.controller.handlers import EndlessBackoff, NoMemory, registry, settings
from finetune_operator.controller.watch import deliver
from finetune_operator.objects.digest import job_version
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Key, Object


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
    changes: dict[str, Any] = {"resourceVersion": version, "managedFields": fields}
    changes |= {"annotations": {"a": version}}
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


async def handled(
    deliver: Callable[[str | None, Object], None], what: str | None, found: dict[str, Any]
) -> None:
    """Let kopf's handler process an event."""
    (handler,) = registry(deliver)._watching.get_all_handlers()
    function: Any = handler.fn
    await function(event={"type": what, "object": found}, name="demo", namespace="a", logger=None)


async def test_a_job_is_stored_and_its_changes_notify_the_controller() -> None:
    store, calls, lists = ObjectStore(), list[tuple[Key, str, int, bool]](), list[int]()
    function = deliver(store, lambda *call: calls.append(call), lambda: lists.append(1))
    found = job()
    found["metadata"] |= {"resourceVersion": "1"}
    # Items of a list come without apiVersion and kind.
    item = {key: value for key, value in found.items() if key not in ("apiVersion", "kind")}
    await handled(function, None, item)
    await handled(function, "ADDED", found)
    assert (calls, lists) == ([(("a", "demo"), "FineTuneJob", 1, True)], [1])
    found["metadata"] |= {"resourceVersion": "2"}
    await handled(function, "MODIFIED", {**found, "status": {"summary": "ours"}})
    assert len(calls) == 1, "a status write is no news"
    stored = store.job(("a", "demo"))
    assert stored is not None
    assert stored["status"] == {"summary": "ours"}
    found["metadata"] |= {"resourceVersion": "3"}
    await handled(function, "MODIFIED", {**found, "spec": {"suspend": True}})
    found["metadata"] |= {"resourceVersion": "4"}
    await handled(function, "DELETED", found)
    assert [call[2:] for call in calls] == [(1, True), (3, True), (4, True)]
    assert store.jobs() == []


async def test_an_event_that_kopf_holds_has_no_large_metadata() -> None:
    """An event stays in memory for a while after it was handled."""
    found, delivered = body(metadata={"managedFields": [{"x": "y" * 99}]}), list[Object]()
    await handled(lambda what, each: delivered.append(each), None, found)
    assert found["metadata"].keys().isdisjoint({"managedFields", "annotations"})
    (each,) = delivered
    assert each["metadata"]["name"] == "demo"
    assert each["spec"] == {"a": 1}


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
    handlers = registry(lambda what, found: None)
    assert isinstance(handlers, kopf.OperatorRegistry)
    assert len(handlers._watching.get_all_handlers()) == 1
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
