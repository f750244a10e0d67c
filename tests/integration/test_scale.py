"""``/scale`` of a FineTuneJob, as kubectl, the HorizontalPodAutoscaler and KEDA use it."""

from typing import Any

import pytest
from tests.support.api_server.controlplane import ApiError
from tests.support.api_server.manifest_files import kubectl
from tests.support.api_server.namespace import Namespace

SHARED = {"accessMode": "ReadWriteMany"}


def submitted(place: Namespace, **spec: Any) -> str:
    """Create a job and return its path."""
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "scaled"},
        "spec": {
            "model": {"source": "hf://org/model"},
            "dataset": {"source": "hf://org/data", "format": "alpaca"},
            **spec,
        },
    }
    place.plane.post(place.path("finetunejobs"), job)
    return place.path("finetunejobs", "scaled")


def test_the_scale_subresource_reads_and_writes_replicas(place: Namespace) -> None:
    path = submitted(place, serving={"replicas": 1}, storage=SHARED)
    serving = {"replicas": 1, "selector": "finetune.dev/job=scaled"}
    place.plane.merge(f"{path}/status", {"status": {"serving": serving}})
    scale = place.plane.get(f"{path}/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == serving
    done = kubectl(place.plane, "scale", "-n", place.name, "ftj/scaled", "--replicas=3")
    assert done.returncode == 0, done.stderr
    job = place.plane.get(path)
    assert (job["spec"]["serving"]["replicas"], job["metadata"]["generation"]) == (3, 2)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_validation_rules_apply_to_the_scale_subresource(place: Namespace, method: str) -> None:
    path = submitted(place, serving={"replicas": 1})
    body: dict[str, Any] = {"spec": {"replicas": 2}}
    kind = "application/merge-patch+json"
    if method == "PUT":
        body, kind = place.plane.get(f"{path}/scale") | body, "application/json"
    with pytest.raises(ApiError, match="more than one serving replica needs a volume") as refusal:
        place.plane.request(method, f"{path}/scale", body, kind)
    assert refusal.value.status == 422
    for replicas in (-1, 65):
        body["spec"] = {"replicas": replicas}
        with pytest.raises(ApiError):
            place.plane.request(method, f"{path}/scale", body, kind)
    body["spec"] = {"replicas": 0}
    place.plane.request(method, f"{path}/scale", body, kind)
    assert place.plane.get(path)["spec"]["serving"] == {"replicas": 0}


def test_unset_replicas_cannot_be_read(place: Namespace) -> None:
    """The schema has no default for replicas, as the description of the field documents."""
    path = submitted(place)
    with pytest.raises(ApiError, match="spec replicas field"):
        place.plane.get(f"{path}/scale")
