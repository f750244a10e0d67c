"""The indexed snapshot: owners and labels are parsed once, and objects are found by key."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, copied

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects import conditions, status_view
from finetune_operator.objects.index import index

TRAIN = Attempt(stage="train", attempt=1, outcome="Completed")


def serving() -> Cluster:
    cluster = Cluster()
    controllers.run_all(cluster)
    return cluster


def test_objects_are_found_by_key() -> None:
    cluster = serving()
    revision, build = cluster.status["revision"], cluster.status["build"]
    found = index(cluster.observe())
    train = found.named_for(revision, TRAIN)
    assert train is not None
    assert found.job_of(revision, TRAIN) is None, "its uid is not that of the ledger"
    assert found.job_of(revision, TRAIN.model_copy(update={"job": train.uid})) == train
    assert (train.name, train.stage, train.attempt, train.ended) == (
        f"demo-{revision}-train-1",
        "train",
        1,
        True,
    )
    volume = found.volume(revision)
    assert volume is not None
    assert volume.revision == revision
    assert list(found.builds) == [build]
    assert found.service is not None
    assert found.budget is None
    configmap = found.configmap(revision)
    assert configmap is not None
    assert configmap.name == f"demo-{revision}"
    assert sorted(found.own_policies) == ["demo-prepare", "demo-serve", "demo-work"]


def test_missing_objects_are_none() -> None:
    found = index(serving().observe())
    assert found.named_for("0badbeef", TRAIN) is None
    assert found.volume("0badbeef") is None


def test_objects_of_another_owner_are_listed_but_not_found_by_key() -> None:
    cluster = serving()
    revision = cluster.status["revision"]
    for thing in cluster.objects.values():
        for owner in thing["metadata"].get("ownerReferences", ()):
            if owner.get("kind") == "FineTuneJob":
                owner["uid"] = "other-owner"
    found = index(cluster.observe())
    assert {job.owned for job in found.jobs} == {False}
    assert found.named_for(revision, TRAIN) is None
    assert found.volume(revision) is None
    assert found.configmap(revision) is None
    assert (found.builds, found.service) == ({}, None)


def test_pods_of_a_job_are_its_own_and_oldest_first() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    controllers.sync(cluster)
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    (first,) = controllers.pods_of(cluster, job)
    second = copied(first)
    second["metadata"] |= {"name": "second", "creationTimestamp": "2029-01-01T00:00:00Z"}
    orphan = copied(first)
    orphan["metadata"] |= {"name": "orphan", "ownerReferences": []}
    for pod in (second, orphan):
        cluster.objects["Pod", pod["metadata"]["name"]] = pod
    found = index(cluster.observe())
    train = found.own_jobs[job["metadata"]["name"]]
    names = [pod["metadata"]["name"] for pod in found.pods_of(train)]
    assert names == ["second", first["metadata"]["name"]]


@pytest.mark.parametrize("label", ["", "x", "-1", "1.5", "²"])
def test_an_attempt_label_that_is_no_number_is_none(label: str) -> None:
    cluster = serving()
    for job in cluster.each("Job"):
        job["metadata"]["labels"]["finetune.dev/attempt"] = label
    assert {job.attempt for job in index(cluster.observe()).jobs} == {None}


def test_a_job_without_status_has_an_empty_previous_status() -> None:
    previous = status_view.of_job({"metadata": {"name": "demo"}})
    assert (previous.revision, previous.build, previous.serving_build) == (None, None, None)
    assert (previous.conditions, previous.warnings, previous.ledger) == ({}, (), ())
    assert not previous.is_about("5dd9912b")


@pytest.mark.parametrize(
    ("status", "expected"),
    [("True", True), ("False", False), ("Unknown", False)],
)
def test_condition_is_true(status: str, expected: bool) -> None:
    thing: dict[str, Any] = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
    assert conditions.is_true(thing, "Ready") is expected
    assert conditions.get(thing, "Ready") == {"type": "Ready", "status": status}


@pytest.mark.parametrize("thing", [{}, {"status": {}}, {"status": {"conditions": []}}])
def test_a_missing_condition_is_empty(thing: dict[str, Any]) -> None:
    assert conditions.get(thing, "Ready") == {}
    assert not conditions.is_true(thing, "Ready")
