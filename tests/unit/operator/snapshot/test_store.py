"""The newest version of each object, whatever the order in which versions arrive."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.kube_client import child, job

from finetune_operator.snapshot.store import TOMBSTONE_SECONDS, ObjectStore

KEY = ("a", "demo")
NAME = ("a", "p")


def pod(version: int, *, uid: str = "u", label: str | None = "demo", **status: Any) -> Any:
    each = child("Pod", "p", status=status)
    each["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    each["metadata"]["labels"] |= {"finetune.dev/job": label}
    if label is None:
        del each["metadata"]["labels"]["finetune.dev/job"]
    return each


def stored(store: ObjectStore) -> Any:
    return [each["metadata"]["resourceVersion"] for each in store.children(KEY)["pods"]]


def test_an_older_or_equal_version_is_dropped() -> None:
    store = ObjectStore()
    assert store.put(pod(2, phase="Running")) == (KEY,)
    assert store.put(pod(1, phase="Pending")) == store.put(pod(2, phase="Pending")) == ()
    (found,) = store.children(KEY)["pods"]
    assert found["status"] == {"phase": "Running"}


def test_the_objects_of_a_job_share_one_key_in_memory() -> None:
    store = ObjectStore()
    (key,) = store.put(pod(1))
    other = pod(2)
    other["metadata"]["name"] = "another"
    assert store.put(other)[0] is key
    assert store.put(pod(3, phase="Running"))[0] is key


def test_versions_are_compared_as_numbers() -> None:
    store = ObjectStore()
    store.put(pod(9))
    store.put(pod(10))
    assert stored(store) == ["10"]


def test_a_change_of_unused_fields_is_no_news_but_a_newer_version() -> None:
    store = ObjectStore()
    store.put(pod(1, phase="Running"))
    assert store.put(pod(2, phase="Running", hostIP="10.0.0.9")) == ()
    assert stored(store) == ["2"]


@pytest.mark.parametrize(
    ("status", "is_news"),
    [
        ({"startTime": "2026-01-01T00:00:00Z", "active": 1}, False),
        ({"ready": 1, "terminating": 0}, False),
        ({"uncountedTerminatedPods": {"succeeded": ["u"]}, "succeeded": 1}, False),
        ({"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}, False),
        ({"conditions": [{"type": "Complete", "status": "True"}], "ready": 0}, True),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, True),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, True),
    ],
)
def test_of_the_status_of_a_job_only_its_conditions_are_news(status: Any, is_news: bool) -> None:
    """Its numbers follow from its pods; they are kept for the next reconcile."""
    store = ObjectStore()

    def run(version: int, **status: Any) -> Any:
        each = child("Job", "run", status=status)
        each["metadata"] |= {"uid": "u", "resourceVersion": str(version)}
        return each

    store.put(run(1))
    assert store.put(run(2, **status)) == ((KEY,) if is_news else ())
    (found,) = store.children(KEY)["jobs"]
    assert found["metadata"]["resourceVersion"] == "2"
    assert found["status"].get("ready") == status.get("ready")


def test_a_late_response_resurrects_nothing() -> None:
    store = ObjectStore()
    store.put(pod(1))
    assert store.remove(pod(3)) == (KEY,)
    assert store.put(pod(2)) == store.put(pod(3)) == ()
    assert store.children(KEY)["pods"] == ()
    assert store.put(pod(4, uid="another")) == (KEY,)


def test_the_deletion_of_an_earlier_object_of_the_name_is_dropped() -> None:
    store = ObjectStore()
    store.put(pod(5, uid="second"))
    assert store.remove(pod(4, uid="first")) == ()
    assert stored(store) == ["5"]


def test_tombstones_are_dropped_after_some_minutes() -> None:
    now = [0.0]
    store = ObjectStore(clock=lambda: now[0])
    store.remove(pod(3))
    now[0] = TOMBSTONE_SECONDS
    other = pod(1)
    other["metadata"]["name"] = "other"
    store.remove(other)
    assert store.put(pod(2)) == (KEY,)


@pytest.mark.parametrize("label", [None, "other"])
def test_an_object_that_changes_its_label_leaves_its_job(label: str | None) -> None:
    store = ObjectStore()
    store.put(pod(1))
    news = store.put(pod(2, label=label))
    assert news == ((KEY,) if label is None else (KEY, ("a", "other")))
    assert store.children(KEY)["pods"] == ()
    assert len(store.children(("a", "other"))["pods"]) == (label is not None)


def test_a_list_removes_what_it_does_not_contain_but_nothing_newer() -> None:
    store = ObjectStore()
    other = pod(1)
    other["metadata"] |= {"name": "kept"}
    for each in (pod(1), other):
        store.put(each)
    assert store.retain("Pod", {("a", "kept")}, 0) == (), "both are newer than the list"
    assert store.retain("Pod", {("a", "kept")}, 1, namespace="b") == (), "of another namespace"
    assert store.retain("Pod", {("a", "kept")}, 1, key=("a", "x")) == (), "of another job"
    assert store.retain("Pod", {("a", "kept")}, 1) == (KEY,)
    assert [each["metadata"]["name"] for each in store.children(KEY)["pods"]] == ["kept"]


def test_absence_does_not_evict_what_arrived_meanwhile() -> None:
    store = ObjectStore()
    store.put(pod(1))
    version = store.version("Pod", NAME)
    store.put(pod(2))
    assert store.evict("Pod", NAME, version) == ()
    assert store.evict("Pod", NAME, 2) == (KEY,)


def test_a_status_write_is_no_news_about_its_job() -> None:
    store = ObjectStore()
    first = job()
    first["metadata"] |= {"resourceVersion": "1"}
    assert store.put(first) == (KEY,)
    first["metadata"] |= {"resourceVersion": "2", "managedFields": [{"manager": "x"}]}
    assert store.put({**first, "status": {"summary": "x"}}) == ()
    found = store.owner(KEY)
    assert found is not None
    assert found["status"] == {"summary": "x"}
    first["metadata"] |= {"resourceVersion": "3"}
    assert store.put({**first, "spec": {"suspend": True}}) == (KEY,)


def test_the_metadata_of_a_configmap_keeps_the_digests_of_its_version() -> None:
    store, full = ObjectStore(), child("ConfigMap", "c", data={"a": "1"})
    full["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    metadata = {key: full[key] for key in ("apiVersion", "kind", "metadata")}
    store.put(metadata)
    assert not store.is_verified(("a", "c"))
    store.put(full)
    store.put(metadata)
    assert store.is_verified(("a", "c"))
    store.put({**metadata, "metadata": {**full["metadata"], "resourceVersion": "2"}})
    assert not store.is_verified(("a", "c"))


@given(seed=st.integers(0, 2**32), size=st.integers(1, 12))
def test_the_end_does_not_depend_on_the_order(seed: int, size: int) -> None:
    """Creations, changes and deletions of one name, delivered in any order, some twice."""
    order = random.Random(seed)
    history: list[tuple[str, Any]] = []
    alive, uid = False, 0
    for version in range(1, size + 1):
        if alive and order.random() < 0.4:
            history.append(("remove", pod(version, uid=str(uid))))
            alive = False
        else:
            uid += not alive
            history.append(("put", pod(version, uid=str(uid), phase=str(version))))
            alive = True
    delivered = [*history, *order.choices(history, k=size)]
    order.shuffle(delivered)
    store = ObjectStore()
    for what, each in delivered:
        getattr(store, what)(each)
    assert stored(store) == ([str(size)] if alive else [])
