"""Facts about Deployments, Jobs, pods and owners, for each state that the API server stores."""

from datetime import UTC, datetime
from typing import Any

import pytest

from finetune_operator.objects import deployments, events, jobs, naming, pods

JOB: dict[str, Any] = {"metadata": {"name": "demo", "namespace": "ns", "uid": "u"}}
CREATED = "2026-01-01T00:00:00Z"


def condition(type_: str, status: str = "True", reason: str = "") -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason}


def deployment(*conditions: Any, observed: int | None = 2, **status: Any) -> dict[str, Any]:
    """Return a Deployment of generation 2."""
    known = {} if observed is None else {"observedGeneration": observed}
    return {
        "metadata": {"generation": 2},
        "status": {"conditions": [*conditions], **known, **status},
    }


@pytest.mark.parametrize(
    ("each", "ready"),
    [
        (None, 0),
        (deployment(updatedReplicas=3, availableReplicas=2), 2),
        (deployment(updatedReplicas=1, availableReplicas=2), 1),
        (deployment(updatedReplicas=1), 0),
        (deployment(availableReplicas=1), 0),
        (deployment(observed=3, updatedReplicas=1, availableReplicas=1), 1),
        (deployment(observed=1, updatedReplicas=1, availableReplicas=1), 0),
        (deployment(observed=None, updatedReplicas=1, availableReplicas=1), 0),
        (
            {
                "metadata": {"generation": 2, "deletionTimestamp": CREATED},
                "status": {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 1},
            },
            0,
        ),
        ({"metadata": {"generation": 1}}, 0),
    ],
)
def test_pods_of_the_current_template_that_are_ready(each: Any, ready: int) -> None:
    assert deployments.answering(each) == ready


@pytest.mark.parametrize(
    ("each", "replacing"),
    [
        (deployment(), False),
        (deployment(condition("Progressing", reason="NewReplicaSetAvailable")), False),
        (deployment(condition("Progressing", reason="ReplicaSetUpdated")), True),
        (deployment(condition("Progressing", "False", "ProgressDeadlineExceeded")), False),
        (deployment(condition("Progressing", reason="NewReplicaSetAvailable"), observed=1), True),
    ],
)
def test_a_deployment_replaces_pods_until_its_template_is_rolled_out(
    each: Any, replacing: bool
) -> None:
    assert deployments.is_replacing_pods(each) is replacing


@pytest.mark.parametrize(
    ("each", "failed"),
    [
        (deployment(condition("ReplicaFailure", reason="FailedCreate")), True),
        (deployment(condition("ReplicaFailure", reason="FailedDelete")), False),
        (deployment(condition("ReplicaFailure", "False", "FailedCreate")), False),
        (deployment(condition("ReplicaFailure", reason="FailedCreate"), observed=1), False),
        (deployment(), False),
    ],
)
def test_a_rejected_pod_is_a_replica_failure(each: Any, failed: bool) -> None:
    found = deployments.replica_failure(each)
    expected = condition("ReplicaFailure", reason="FailedCreate")
    assert found == (expected if failed else None)


@pytest.mark.parametrize(
    ("conditions", "over"),
    [
        ([], False),
        ([condition("Complete")], True),
        ([condition("Failed")], True),
        ([condition("Complete", "False"), condition("Failed", "False")], False),
        ([condition("Suspended")], False),
    ],
)
def test_a_job_is_over_once_it_is_complete_or_failed(conditions: Any, over: bool) -> None:
    assert jobs.is_over({"status": {"conditions": conditions}}) is over


@pytest.mark.parametrize(
    ("phase", "ended"),
    [("Pending", False), ("Running", False), ("Succeeded", True), ("Failed", True), (None, False)],
)
def test_a_pod_has_ended_in_two_phases(phase: str | None, ended: bool) -> None:
    assert jobs.pod_has_ended({"status": {"phase": phase}} if phase else {}) is ended


def pod(*, conditions: Any = (), **rest: Any) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": CREATED},
        "status": {"conditions": [*conditions], **rest},
    }


SCHEDULED = condition("PodScheduled")
UNSCHEDULED = {**condition("PodScheduled", "False", "Unschedulable"), "message": "0/3 nodes"}


@pytest.mark.parametrize(
    ("each", "has_a_node", "refusal"),
    [
        (pod(), False, None),
        (pod(conditions=[SCHEDULED]), True, None),
        (pod(conditions=[condition("PodScheduled", "Unknown")]), False, None),
        (pod(conditions=[UNSCHEDULED]), False, "0/3 nodes"),
        (pod(conditions=[condition("PodScheduled", "False")]), False, ""),
        (pod(conditions=[condition("Ready")]), False, None),
    ],
)
def test_the_scheduler_assigns_or_refuses_a_pod(
    each: Any, has_a_node: bool, refusal: str | None
) -> None:
    assert pods.has_a_node(each) is has_a_node
    assert pods.refused_by_nodes(each) == refusal


def at(hour: int) -> datetime:
    return datetime(2026, 1, 1, hour, tzinfo=UTC)


def stamp(hour: int) -> str:
    return f"2026-01-01T{hour:02d}:00:00Z"


def test_times_of_a_pod_start_with_its_creation() -> None:
    assert (pods.started(pod()), pods.scheduled_since(pod())) == (at(0), at(0))
    known = pod(conditions=[SCHEDULED | {"lastTransitionTime": stamp(1)}], startTime=stamp(2))
    assert (pods.scheduled_since(known), pods.started(known)) == (at(1), at(2))


@pytest.mark.parametrize(
    ("ends", "last"),
    [((), None), ((3,), 3), ((3, 5, 4), 5), ((3, None), None)],
)
def test_a_pod_ends_with_its_last_container(ends: tuple[int | None, ...], last: int | None) -> None:
    states: list[dict[str, Any]] = [
        {"state": {"running": {}}}
        if hour is None
        else {"state": {"terminated": {"finishedAt": stamp(hour)}}}
        for hour in ends
    ]
    assert pods.ended(pod(containerStatuses=states)) == (None if last is None else at(last))


def test_devices_of_a_pod_are_the_limits_with_a_domain() -> None:
    containers = [
        {"resources": {"limits": {"cpu": 1, "nvidia.com/gpu": 1}}},
        {"resources": {"limits": {"example.com/nic": 1}, "requests": {"example.com/x": 1}}},
        {},
    ]
    assert pods.extended_resources({"spec": {"containers": containers}}) == {
        "nvidia.com/gpu",
        "example.com/nic",
    }
    assert pods.extended_resources({"spec": {}}) == set()


def owned(
    kind: str = "Pod",
    uid: str = "u",
    *,
    controller: bool = True,
    of: str = "FineTuneJob",
    name: str = "demo",
) -> dict[str, Any]:
    reference = {"kind": of, "name": name, "uid": uid, "controller": controller}
    return {"kind": kind, "metadata": {"ownerReferences": [{"uid": "other"}, reference]}}


def controlled_by(uid: str, *, of: str) -> dict[str, Any]:
    """Return a child of the job that has another controller."""
    child = owned(controller=False)
    other = {"kind": of, "name": "other", "uid": uid, "controller": True}
    child["metadata"]["ownerReferences"].append(other)
    return child


def orphan(kind: str, **labels: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"labels": {f"finetune.dev/{key}": value for key, value in labels.items()}},
    }


@pytest.mark.parametrize(
    ("child", "mine", "left"),
    [
        (owned(), True, False),
        (owned(uid="v"), False, True),
        (owned(uid="v", name="other"), False, False),
        (owned(uid="v", of="Job"), False, False),
        # Whoever removes the mark of the controller does not take the object.
        (owned(controller=False), True, False),
        (owned(name="other"), True, False),
        (owned(of="Deployment"), True, False),
        (owned("PersistentVolumeClaim", controller=False), True, False),
        (controlled_by("v", of="FineTuneJob"), False, False),
        (controlled_by("v", of="ConfigMap"), True, False),
        ({"kind": "Pod", "metadata": {"ownerReferences": None}}, False, False),
        (orphan("PersistentVolumeClaim", **{"job-uid": "u"}), True, False),
        (orphan("PersistentVolumeClaim", **{"job-uid": "v"}), False, False),
        (orphan("ConfigMap", **{"job-uid": "u"}), False, False),
        (owned("PersistentVolumeClaim", uid="v"), False, True),
    ],
)
def test_a_child_belongs_to_the_job_with_its_uid(child: Any, mine: bool, left: bool) -> None:
    assert naming.owned_by(JOB, child) is mine
    assert naming.left_by_an_earlier_job(JOB, child) is left


def test_only_the_controller_of_a_pod_is_its_job() -> None:
    """A Job does not replace a pod that it does not control."""
    job = {"metadata": {"uid": "u"}}
    assert naming.controlled_by(job, owned(of="Job"))
    assert not naming.controlled_by(job, owned(of="Job", controller=False))
    assert not naming.controlled_by(job, {"metadata": {}})


def test_metadata_of_a_child() -> None:
    labels = naming.labels(
        JOB,
        component="train",
        extra={"team": "a", "app.kubernetes.io/name": "mine"},
        revision="r",
        build=None,
        stage="train",
        attempt=0,
    )
    assert naming.metadata(JOB, "x", labels) == {
        "name": "x",
        "namespace": "ns",
        "labels": {
            "team": "a",
            "app.kubernetes.io/name": "finetune",
            "app.kubernetes.io/instance": "demo",
            "app.kubernetes.io/component": "train",
            "app.kubernetes.io/managed-by": "finetune-operator",
            "finetune.dev/job": "demo",
            "finetune.dev/revision": "r",
            "finetune.dev/stage": "train",
            "finetune.dev/attempt": "0",
        },
        "ownerReferences": [
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "name": "demo",
                "uid": "u",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    assert naming.labels(JOB, component="c").keys() == {
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/component",
        "app.kubernetes.io/managed-by",
        "finetune.dev/job",
    }


def test_names_of_children() -> None:
    assert naming.revision_name("demo", "r") == "demo-r"
    assert naming.job_name("demo", "r", "merge", 2) == "demo-r-merge-2"
    assert naming.deployment_name("demo", "b") == "demo-b"
    assert naming.service_name("demo") == "demo-serve"


def test_labels_and_annotations_of_other_projects() -> None:
    """docs/reference/labels.md has those of this project."""
    assert naming.QUEUE == "kueue.x-k8s.io/queue-name"
    assert naming.QUEUE_PRIORITY == "kueue.x-k8s.io/priority-class"
    assert naming.SELECTED_NODE == "volume.kubernetes.io/selected-node"
    assert naming.BUILD == "finetune.dev/build"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"note": "n", "message": "m", "reason": "r"}, "n"),
        ({"message": "m", "reason": "r"}, "m"),
        ({"reason": "r"}, "r"),
    ],
)
def test_text_of_an_event_of_both_apis(event: Any, text: str) -> None:
    assert events.text(event) == text


@pytest.mark.parametrize(
    "times",
    [
        {"series": {"lastObservedTime": stamp(3)}, "eventTime": stamp(1)},
        {"deprecatedLastTimestamp": stamp(3), "eventTime": stamp(1)},
        {"lastTimestamp": stamp(3), "metadata": {"creationTimestamp": stamp(1)}},
        {"eventTime": stamp(3), "series": None},
        {"metadata": {"creationTimestamp": stamp(3)}},
    ],
)
def test_last_time_of_an_event_of_both_apis(times: Any) -> None:
    assert events.last_time({"metadata": {}, **times}) == stamp(3)
    assert events.last_time({"metadata": {}}) == ""


def test_the_newest_event_about_an_object_since_a_time() -> None:
    def event(uid: str, reason: str, hour: int) -> dict[str, Any]:
        return {
            "metadata": {"creationTimestamp": stamp(hour)},
            "regarding": {"uid": uid},
            "reason": reason,
            "note": f"{reason} {hour}",
        }

    found = [event("u", "A", 1), event("u", "B", 2), event("u", "A", 3), event("v", "A", 4)]
    assert events.note(found, JOB) == "A 3"
    assert events.note(found, JOB, "B") == "B 2"
    assert events.note(found, JOB, "A", since=stamp(3)) == "A 3"
    assert events.note(found, JOB, "B", since=stamp(3)) is None
    assert events.note([], JOB) is None
    core = {"metadata": {}, "involvedObject": {"uid": "u"}, "message": "m"}
    assert events.note([core], JOB) == "m"
