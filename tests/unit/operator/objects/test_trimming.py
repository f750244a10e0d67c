"""What is kept of an object. The plans of all histories are made from trimmed objects."""

import marshal
from typing import Any

import pytest
from tests.fakes.kube_client import child, job

from finetune_operator.objects.trimming import DIGESTS, MAX_BYTES, MAX_TEXT, trimmed

MIB = 1 << 20


def with_metadata(each: Any, **metadata: Any) -> Any:
    each["metadata"] |= {"uid": "u", "resourceVersion": "1", **metadata}
    return each


def size(each: Any) -> int:
    return len(marshal.dumps(each, 2))


@pytest.mark.parametrize(
    "huge",
    [
        with_metadata(child("Pod", "p"), annotations={"a": "x" * MIB}),
        with_metadata(child("Pod", "p"), labels={str(n): "x" * 60 for n in range(15_000)}),
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
    node = {"volume.kubernetes.io/selected-node": "n", "note": "x"}
    kept = trimmed(
        with_metadata(child("PersistentVolumeClaim", "v"), managedFields=[entry], annotations=node)
    )["metadata"]
    expected = {"manager": "kubectl", "time": "t", "fieldsV1": {"f:spec": {}}}
    assert kept["managedFields"] == [expected]
    assert kept["annotations"] == {"volume.kubernetes.io/selected-node": "n"}


def test_a_job_is_kept_without_managed_fields() -> None:
    each = with_metadata(job(summary="x"), managedFields=[{}], annotations={}, labels={"a": "b"})
    each["spec"] = {"model": {"source": "hf://a/b"}}
    kept = trimmed(each)
    assert (kept["spec"], kept["status"]) == (each["spec"], each["status"])
    assert kept["metadata"].keys() >= {"labels", "uid", "resourceVersion", "generation"}
    assert not kept["metadata"].keys() & {"managedFields", "annotations"}


def test_long_texts_of_a_huge_object_are_cut() -> None:
    """A registry decides how long the message is; its reason must not be lost with it."""
    waiting = {"reason": "ErrImagePull", "message": "x" * MIB}
    statuses = [{"name": "trainer", "state": {"waiting": waiting}}]
    kept = trimmed(child("Pod", "p", status={"containerStatuses": statuses}))
    cut = kept["status"]["containerStatuses"][0]["state"]["waiting"]
    assert cut == {"reason": "ErrImagePull", "message": "x" * MAX_TEXT}
