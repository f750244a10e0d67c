"""The objects of our own kinds, as kopf delivers them."""

from typing import Any, cast

from tests.fakes.kube_client import job

from finetune_operator.controller.controller import Controller
from finetune_operator.controller.resync import Resync
from finetune_operator.controller.running import RunningKind
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.types import Key


class Parts:
    """Stands for the controller and the resync; records their calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Key, str, int, bool]] = []
        self.requests = 0
        self.store = ObjectStore()

    def notify(self, *call: Any) -> None:
        self.calls.append(call)

    def request(self) -> None:
        self.requests += 1


def running_kind(parts: Parts) -> RunningKind:
    return RunningKind(controller=cast(Controller[Any], parts), resync=cast(Resync, parts))


def test_a_job_is_stored_and_its_changes_notify_the_controller() -> None:
    parts = Parts()
    running = running_kind(parts)
    found = job()
    found["metadata"] |= {"resourceVersion": "1"}
    # Items of a list come without apiVersion and kind.
    item = {key: value for key, value in found.items() if key not in ("apiVersion", "kind")}
    running.deliver(None, item)
    running.deliver("ADDED", {**found})
    assert (parts.calls, parts.requests) == ([(("a", "demo"), "FineTuneJob", 1, True)], 1)
    found["metadata"] |= {"resourceVersion": "2"}
    running.deliver("MODIFIED", {**found, "status": {"summary": "ours"}})
    assert len(parts.calls) == 1, "a status write is no news"
    stored = running.store.owner(("a", "demo"))
    assert stored is not None
    assert stored["status"] == {"summary": "ours"}
    found["metadata"] |= {"resourceVersion": "3"}
    running.deliver("MODIFIED", {**found, "spec": {"suspend": True}})
    found["metadata"] |= {"resourceVersion": "4"}
    running.deliver("DELETED", found)
    assert [call[2:] for call in parts.calls] == [(1, True), (3, True), (4, True)]
    assert running.store.own_keys() == []


def test_an_event_that_kopf_holds_has_nothing_large() -> None:
    """An event stays in memory for a while after it was handled."""
    running = running_kind(Parts())
    found = job() | {"status": {"summary": "y" * 99}}
    found["metadata"] |= {
        "resourceVersion": "1",
        "managedFields": [{"x": "y" * 99}],
        "annotations": {"a": "y" * 99},
    }
    event = {**found}
    running.deliver(None, event)
    assert event.keys() == {"apiVersion", "kind", "metadata"}
    assert event["metadata"].keys().isdisjoint({"managedFields", "annotations"})
    stored = running.store.owner(("a", "demo"))
    assert stored is not None
    assert (stored["spec"], stored["status"]) == (found["spec"], found["status"])


def test_the_annotation_that_wakes_an_endpoint_is_kept_and_notifies_the_controller() -> None:
    parts = Parts()
    running = running_kind(parts)
    for version, annotations in enumerate(
        ({}, {"a": "b"}, {"finetune.dev/wake": "2030-01-01T00:00:00Z", "a": "y" * 99}), start=1
    ):
        found = job()
        found["metadata"] |= {"resourceVersion": str(version), "annotations": annotations}
        running.deliver("MODIFIED", found)
    assert [call[2:] for call in parts.calls] == [(1, True), (3, True)]
    stored = running.store.owner(("a", "demo"))
    assert stored is not None
    assert stored["metadata"]["annotations"] == {"finetune.dev/wake": "2030-01-01T00:00:00Z"}
