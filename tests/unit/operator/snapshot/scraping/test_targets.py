"""The pods of a job that are scraped."""

from typing import Any

import pytest
from tests.fakes.apiserver import CONFIG
from tests.fakes.kube_client import child, job

from finetune_operator.snapshot.scraping.targets import targets
from finetune_operator.types import Snapshot


def run(stage: str, uid: str = "run", **how: Any) -> dict[str, Any]:
    """Return the Job of a stage."""
    each: dict[str, Any] = child("Job", f"demo-{stage}", **how)
    each["metadata"] |= {"uid": uid}
    each["metadata"]["labels"]["finetune.dev/stage"] = stage
    return each


def pod(name: str = "p", phase: str = "Running", ip: str = "10.0.0.1") -> dict[str, Any]:
    """Return a pod that the Job ``run`` controls."""
    each: dict[str, Any] = child("Pod", name, status={"phase": phase, "podIP": ip})
    each["metadata"] |= {"uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    each["metadata"]["ownerReferences"] = [
        {"kind": "Job", "name": "demo-train", "uid": "run", "controller": True}
    ]
    return each


def served(name: str, build: str, created: str = "1", ready: str = "True") -> dict[str, Any]:
    """Return a pod that the ReplicaSet of a build's Deployment controls."""
    each = pod(name)
    each["metadata"]["labels"] |= {"finetune.dev/build": build, "pod-template-hash": "5f6"}
    each["metadata"]["creationTimestamp"] = created
    each["metadata"]["ownerReferences"] = [
        {"kind": "ReplicaSet", "name": f"demo-{build}-5f6", "uid": "rs", "controller": True}
    ]
    each["status"]["conditions"] = [{"type": "Ready", "status": ready}]
    return each


def deployment(build: str) -> dict[str, Any]:
    each: dict[str, Any] = child("Deployment", f"demo-{build}")
    each["metadata"]["labels"]["finetune.dev/build"] = build
    return each


def scraped(reported: dict[str, str] | None = None, **lists: Any) -> list[tuple[str, int]]:
    """Return name and port of the targets; reported: the verification in the job's status."""
    each = {**job(), "status": {"build": "b3", "verification": reported or {}}}
    found: dict[str, Any] = {name: tuple(objects) for name, objects in lists.items()}
    snapshot = Snapshot(settings=CONFIG, job=each, **found)
    return [(target.pod, target.port) for target in targets(snapshot)]


def test_the_running_train_pod_is_scraped_before_others() -> None:
    other = pod("other")
    other["metadata"]["ownerReferences"][0]["uid"] = "another"
    jobs = [run("prepare", "another"), run("train")]
    assert scraped(jobs=jobs, pods=[other, pod()]) == [("p", 9400)]
    assert scraped(jobs=jobs, pods=[other]) == [("other", 9400)]


@pytest.mark.parametrize(
    "unscraped",
    [pod(phase="Pending"), pod(phase="Succeeded"), pod(ip="")],
    ids=["pending", "terminated", "without an address"],
)
def test_other_pods_are_not_scraped(unscraped: dict[str, Any]) -> None:
    assert scraped(jobs=[run("train")], pods=[unscraped]) == []


def test_a_terminating_pod_is_not_scraped() -> None:
    terminating = pod()
    terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert scraped(jobs=[run("train")], pods=[terminating]) == []


def test_a_pod_that_no_job_of_this_finetunejob_controls_is_not_scraped() -> None:
    foreign = pod()
    foreign["metadata"]["ownerReferences"] = []
    foreign["metadata"]["labels"]["finetune.dev/stage"] = "train"
    assert scraped(jobs=[run("train")], pods=[foreign]) == []
    assert scraped(jobs=[run("train", owner="another job")], pods=[pod()]) == []


def test_a_ready_pod_of_an_own_deployment_is_scraped() -> None:
    pods = [served("old", "b1"), served("new", "b2", "2"), served("late", "b3", "3", ready="False")]
    own = [deployment("b1"), deployment("b2"), deployment("b3")]
    assert scraped(deployments=own, pods=pods) == [("new", 9401), ("late", 9401)]
    assert scraped(deployments=own[:1], pods=pods) == [("old", 9401)]
    assert scraped(deployments=[], pods=pods) == []


def test_the_newest_starting_pod_of_the_target_build_is_scraped() -> None:
    pods = [
        served("old", "b1", ready="False"),
        served("first", "b3", "1", ready="False"),
        served("second", "b3", "2", ready="False"),
    ]
    own = [deployment("b1"), deployment("b3")]
    assert scraped(deployments=own, pods=pods) == [("second", 9401)]


def test_a_pod_with_another_replica_set_or_build_is_not_scraped() -> None:
    renamed, relabeled = served("p", "b1"), served("q", "b1")
    renamed["metadata"]["labels"]["pod-template-hash"] = "another"
    relabeled["metadata"]["labels"]["finetune.dev/build"] = "b2"
    own = [deployment("b1"), deployment("b2")]
    assert scraped(deployments=own, pods=[renamed, relabeled]) == []


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ({}, "new"),
        ({"pod": "old", "build": "b1"}, "new"),
        ({"pod": "gone", "build": "b2"}, "new"),
        ({"pod": "new", "build": "b2"}, "old"),
    ],
)
def test_a_pod_whose_build_has_no_reported_verification_is_scraped(
    reported: dict[str, str], expected: str
) -> None:
    pods = [served("old", "b1"), served("new", "b2", "2")]
    own = [deployment("b1"), deployment("b2")]
    assert scraped(reported, deployments=own, pods=pods) == [(expected, 9401)]


def test_a_reported_verification_is_not_scraped_again() -> None:
    pods = [served("p", "b1"), served("q", "b1")]
    assert scraped({"pod": "p", "build": "b1"}, deployments=[deployment("b1")], pods=pods) == []


def test_every_ready_pod_of_the_serving_build_is_scraped_for_requests_on_demand() -> None:
    pods = [
        served("one", "b1"),
        served("two", "b1"),
        served("late", "b1", ready="False"),
        served("candidate", "b2"),
    ]
    own = [deployment("b1"), deployment("b2")]
    status: dict[str, Any] = {
        "build": "b1",
        "verification": {"pod": "one", "build": "b1"},
        "serving": {"build": "b1"},
    }

    def requested() -> list[tuple[str, str, int | None]]:
        each = {**job(), "status": status}
        snapshot = Snapshot(settings=CONFIG, job=each, deployments=tuple(own), pods=tuple(pods))
        found = [target for target in targets(snapshot) if target.kind == "requests"]
        return [(target.pod, target.slot, target.idle_after) for target in found]

    assert requested() == []
    status["serving"]["idleAfterSeconds"] = 600
    assert requested() == [
        ("one", "requests/uid-one", 600),
        ("two", "requests/uid-two", 600),
    ]
