"""What is kept of an object. The plans of all histories are made from trimmed objects."""

import tracemalloc
from typing import Any

import pytest
from tests.fakes.kube_client import child, job

from finetune_operator.objects.compact.encoding import encoded
from finetune_operator.objects.compact.trimming import (
    DIGESTS,
    MAX_BYTES,
    MAX_FIELD_BYTES,
    MAX_MANAGERS,
    MAX_OWNERS,
    MAX_TEXT,
    MAX_VALUES,
    _values,
    trimmed,
)
from finetune_operator.objects.naming import SELECTED_NODE
from finetune_operator.snapshot.store import ObjectStore

MIB = 1 << 20


def with_metadata(each: Any, **metadata: Any) -> Any:
    each["metadata"] |= {"uid": "u", "resourceVersion": "1", **metadata}
    return each


def size(each: Any) -> int:
    return len(encoded(each))


@pytest.mark.parametrize(
    "huge",
    [
        with_metadata(child("Pod", "p"), annotations={"a": "x" * MIB}),
        with_metadata(child("Pod", "p"), labels={str(n): "x" * 60 for n in range(15_000)}),
        with_metadata(
            child("Pod", "p"),
            labels={"finetune.dev/job": "demo"} | {f"finetune.dev/{n}": "" for n in range(15_000)},
        ),
        with_metadata(child("Pod", "p"), annotations={SELECTED_NODE: "x" * MIB}),
        with_metadata(child("Pod", "p"), managedFields=[{"manager": "x" * 99}] * 10_000),
        child("Pod", "p", spec={"containers": [{"name": "c", "args": ["x" * MIB]}]}),
        child("Pod", "p", spec={"nodeSelector": {str(n): "x" * 60 for n in range(15_000)}}),
        child("Job", "j", spec={"template": {"spec": {"containers": [{"args": ["x" * MIB]}]}}}),
        child("Job", "j", spec={"template": {"metadata": {"annotations": {"a": "x" * MIB}}}}),
        child("PersistentVolumeClaim", "v", spec={"dataSourceRef": {"name": "x" * MIB}}),
        child("Service", "s", spec={"selector": {str(n): "x" * 60 for n in range(15_000)}}),
        child("ConfigMap", "c", data={"a": "x" * MIB}),
        child("ConfigMap", "c", data={str(n): "" for n in range(100_000)}),
    ],
    ids=lambda huge: huge["kind"],
)
def test_no_object_is_larger_than_the_limit(huge: Any) -> None:
    owners = [{"kind": "Pod", "name": "x" * 200, "uid": str(n)} for n in range(4000)]
    owners.insert(3, {"kind": "Pod", "name": "x" * MIB, "uid": "large"})
    huge["metadata"]["ownerReferences"] += owners
    kept = trimmed(huge)
    assert size(kept) <= MAX_BYTES
    assert kept["metadata"]["ownerReferences"][0]["controller"]
    assert trimmed(kept) == kept


def test_small_fields_of_a_huge_object_are_kept() -> None:
    spec = {"nodeName": "n", "nodeSelector": {str(n): "x" * 60 for n in range(15_000)}}
    kept = trimmed(child("Pod", "p", spec=spec, status={"phase": "Running"}))
    assert (kept["spec"], kept["status"]) == ({"nodeName": "n"}, {"phase": "Running"})


def test_a_configmap_is_kept_as_the_digests_of_its_data() -> None:
    kept = trimmed(child("ConfigMap", "c", data={"a": "1", "b": ""}))
    assert {key: len(digest) for key, digest in kept[DIGESTS].items()} == {"a": 64, "b": 64}
    assert "data" not in kept
    metadata_only = {key: kept[key] for key in ("apiVersion", "kind", "metadata")}
    assert DIGESTS not in trimmed(metadata_only)


def test_the_author_of_a_change_and_the_node_of_a_volume_are_kept() -> None:
    fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}, "f:metadata": {}}
    entry = {"manager": "kubectl", "time": "t", "operation": "Update", "fieldsV1": fields}
    bound = {"manager": "controller", "time": "t", "fieldsV1": {"f:status": {}}}
    node = {"volume.kubernetes.io/selected-node": "n", "note": "x"}
    kept = trimmed(
        with_metadata(
            child("PersistentVolumeClaim", "v"), managedFields=[entry, bound], annotations=node
        )
    )["metadata"]
    expected = {"manager": "kubectl", "time": "t", "fieldsV1": {"f:spec": {}}}
    assert kept["managedFields"] == [expected]
    assert kept["annotations"] == {"volume.kubernetes.io/selected-node": "n"}


def test_a_job_is_kept_without_metadata_that_users_decide_about() -> None:
    each = with_metadata(job(summary="x"), managedFields=[{}], annotations={}, labels={"a": "b"})
    each["metadata"] |= {"ownerReferences": [{}], "finalizers": ["example.com/f"]}
    each["spec"] = {"model": {"source": "hf://a/b"}}
    kept = trimmed(each)
    assert (kept["spec"], kept["status"]) == (each["spec"], each["status"])
    assert kept["metadata"].keys() >= {"uid", "resourceVersion", "generation"}
    large = {"managedFields", "annotations", "ownerReferences", "finalizers"}
    assert not kept["metadata"].keys() & large
    assert len(kept["metadata"]["labels"]) == 1
    assert trimmed(kept) == kept
    each["metadata"]["labels"]["a"] = "c"
    assert trimmed(each)["metadata"]["labels"] != kept["metadata"]["labels"]


def test_long_texts_of_a_huge_object_are_cut() -> None:
    """A registry decides how long the message is; its reason must not be lost with it."""
    waiting = {"reason": "ErrImagePull", "message": "x" * MIB}
    statuses = [{"name": "trainer", "state": {"waiting": waiting}}]
    kept = trimmed(child("Pod", "p", status={"containerStatuses": statuses}))
    cut = kept["status"]["containerStatuses"][0]["state"]["waiting"]
    assert cut == {"reason": "ErrImagePull", "message": "x" * MAX_TEXT}


CONTAINER_STATUS = {
    "name": "trainer",
    "image": "i",
    "state": {"running": {}},
    "lastState": {},
    "ready": True,
    "restartCount": 1,
}
CONDITION = {
    "type": "Available",
    "status": "False",
    "reason": "r",
    "message": "m",
    "lastTransitionTime": "t",
}
USED: dict[str, dict[str, Any]] = {
    "Pod": {
        "spec": {
            "nodeName": "n",
            "nodeSelector": {"a": "b"},
            "affinity": {"nodeAffinity": {}},
            "tolerations": [{}],
            "topologySpreadConstraints": [{}],
            "containers": [{"name": "trainer", "resources": {"limits": {"cpu": 1}}}],
            "volumes": [{"persistentVolumeClaim": {"claimName": "v"}}, {}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "startTime": "t",
            "reason": "r",
            "message": "m",
            "conditions": [
                {"type": each} for each in ("PodScheduled", "Ready", "DisruptionTarget")
            ],
            "containerStatuses": [CONTAINER_STATUS],
            "initContainerStatuses": [CONTAINER_STATUS],
        },
    },
    "Job": {
        "spec": {
            "suspend": False,
            "activeDeadlineSeconds": 7,
            "template": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}},
        },
        "status": {
            "startTime": "t",
            "completionTime": "t",
            "ready": 1,
            "succeeded": 1,
            "failed": 1,
            "conditions": [{"type": each} for each in ("Complete", "Failed", "Suspended")],
        },
    },
    "Deployment": {
        "spec": {"replicas": 2, "progressDeadlineSeconds": 600},
        "status": {
            "observedGeneration": 1,
            "replicas": 2,
            "updatedReplicas": 2,
            "availableReplicas": 1,
            "conditions": [CONDITION, {"type": "Progressing"}, {"type": "ReplicaFailure"}],
        },
    },
    "PersistentVolumeClaim": {
        "spec": {"storageClassName": "fast", "resources": {}},
        "status": {"phase": "Bound"},
    },
    "Service": {"spec": {"selector": {"a": "b"}}},
    "NetworkPolicy": {"spec": {"egress": []}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 1}},
    "ConfigMap": {},
}
"""All fields that plans read, by kind."""
METADATA = {
    "name": "x",
    "namespace": "ns",
    "uid": "u",
    "resourceVersion": "1",
    "generation": 1,
    "creationTimestamp": "t",
    "deletionTimestamp": "t",
    "labels": {"app": "x"},
    "ownerReferences": [{"uid": "o", "controller": True}],
}


def unused(value: Any) -> Any:
    """Return a value with a field that no plan reads in each of its groups."""
    if isinstance(value, list):
        return [unused(each) for each in value]
    if isinstance(value, dict):
        return {**{key: unused(each) for key, each in value.items()}, "unused": 1}
    return value


@pytest.mark.parametrize("kind", USED)
def test_fields_that_plans_read_are_kept(kind: str) -> None:
    common = {"apiVersion": "v1", "kind": kind, "metadata": METADATA}
    assert trimmed({**common, **USED[kind]}) == {**common, **USED[kind]}


@pytest.mark.parametrize("kind", ["Pod", "Job", "Deployment", "Service"])
def test_other_fields_are_dropped(kind: str) -> None:
    each = {"apiVersion": "v1", "kind": kind, "metadata": METADATA, "data": 1}
    each |= {"spec": unused(USED[kind]["spec"]), "metadata": unused(METADATA)}
    kept = trimmed(each)
    assert kept.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert "unused" not in kept["metadata"].keys() | kept["spec"].keys()
    if kind == "Pod":
        assert kept["spec"]["containers"][0].keys() == {"name", "resources"}
        assert kept["spec"]["volumes"] == [
            {"persistentVolumeClaim": {"claimName": "v", "unused": 1}},
            {},
        ]
    if kind == "Job":
        assert kept["spec"]["template"]["metadata"].keys() == {"labels", "annotations"}


@pytest.mark.parametrize("kind", ["Pod", "Job", "Deployment"])
def test_other_conditions_and_numbers_are_dropped(kind: str) -> None:
    used = USED[kind]["status"]
    status = {**unused(used), "conditions": [*unused(used["conditions"]), {"type": "Other"}]}
    each = {"apiVersion": "v1", "kind": kind, "metadata": METADATA, "status": status}
    kept = trimmed(each)["status"]
    assert kept.keys() == used.keys()
    assert kept["conditions"] == used["conditions"]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("Deployment", True),
        ("NetworkPolicy", True),
        ("PersistentVolumeClaim", True),
        ("PodDisruptionBudget", True),
        ("Service", True),
        ("Pod", False),
        ("Job", False),
    ],
)
def test_authors_of_changes_are_kept_for_the_kinds_that_the_operator_applies(
    kind: str, kept: bool
) -> None:
    author, other = (
        {"manager": "hpa", "fieldsV1": {field: {"f:replicas": {}}}}
        for field in ("f:spec", "f:status")
    )
    each = trimmed(with_metadata(child(kind, "x"), managedFields=[author, other]))
    found = each["metadata"].get("managedFields")
    assert found == ([{"manager": "hpa", "fieldsV1": {"f:spec": {}}}] if kept else None)


def test_the_last_managers_and_the_first_owners_are_kept_up_to_their_limits() -> None:
    managers = [
        {"manager": str(number), "fieldsV1": {"f:spec": {}}} for number in range(MAX_MANAGERS + 1)
    ]
    owners = [{"uid": str(number)} for number in range(MAX_OWNERS)]
    controller = {"uid": "c", "controller": True}
    each = with_metadata(child("Service", "s"), managedFields=managers)
    for given, expected in (
        (owners, owners),
        ([*owners[1:], controller], [*owners[1:], controller]),
        ([*owners, controller], [controller, *owners[:-1]]),
    ):
        each["metadata"]["ownerReferences"] = given
        metadata = trimmed(each)["metadata"]
        assert metadata["ownerReferences"] == expected
    assert [entry["manager"] for entry in metadata["managedFields"]] == [
        str(number + 1) for number in range(MAX_MANAGERS)
    ]


def test_only_a_too_large_object_loses_long_texts_then_large_fields_labels_and_digests() -> None:
    text = "x" * (MAX_TEXT + 1)
    small = trimmed(child("PersistentVolumeClaim", "v", spec={"long": [text]}, status={"s": text}))
    assert (small["spec"], small["status"]) == ({"long": [text]}, {"s": text})
    large = trimmed(child("PersistentVolumeClaim", "v", spec={"a": "x" * MAX_BYTES, "b": [text]}))
    assert large["spec"] == {"a": text[:-1], "b": [text[:-1]]}
    labels = {"finetune.dev/job": "j", "kueue.x-k8s.io/queue-name": "q", "pod-template-hash": "h"}
    fits, too_large = ("y" * (MAX_FIELD_BYTES - 3 + more) for more in (0, 1))
    each = with_metadata(
        child(
            "PersistentVolumeClaim", "v", spec={"a": fits, "b": too_large, "c": ["z"] * MAX_BYTES}
        ),
        labels={**labels, "app": "x"},
    )
    kept = trimmed(each)
    assert kept["metadata"]["labels"] == labels
    assert kept["spec"] == {"a": fits}
    configmap = trimmed(child("ConfigMap", "c", data={str(n): "" for n in range(1000)}))
    assert configmap[DIGESTS] == {}


@pytest.mark.parametrize("rule", [{}, [], {"ports": [{"port": 1}]}, 1, "", None])
def test_an_object_of_many_values_is_too_large(rule: Any) -> None:
    most = (MAX_VALUES - _values(policy([]))) // _values(rule)
    assert trimmed(policy([rule] * most))["spec"]["ingress"] == [rule] * most
    assert trimmed(policy([rule] * (most + 1)))["spec"] == {"podSelector": {}}


@pytest.mark.parametrize("rule", [{}, {"ports": [{"port": 1}]}])
def test_a_job_with_many_large_objects_of_others_fits_the_memory(rule: Any) -> None:
    store = ObjectStore()
    most = (MAX_VALUES - _values(policy([]))) // _values(rule)
    for number in range(10):
        for count in (most, 30_000):
            each = policy([rule] * count)
            each["metadata"]["labels"] |= {f"{name}.{number}": "" for name in range(2000)}
            store.put(with_metadata(each, name=f"{number}-{count}"))
    tracemalloc.start()
    found = store.children(("a", "demo"))["networkpolicies"]
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(found) == 20
    assert used / 20 < 400_000


def policy(rules: list[Any]) -> Any:
    return child("NetworkPolicy", "p", spec={"podSelector": {}, "ingress": rules})


def test_a_configmap_without_data_has_no_digests_left() -> None:
    assert trimmed(child("ConfigMap", "c", data=None))[DIGESTS] == {}


def test_a_job_without_labels_is_kept_without_them() -> None:
    assert "labels" not in trimmed(with_metadata(job()) | {"metadata": {"name": "a"}})["metadata"]
