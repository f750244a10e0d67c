"""``/scale`` of a FineTuneJob, as kubectl, the HorizontalPodAutoscaler and KEDA use it."""

from typing import Any

import pytest
from tests.integration.controlplane import ApiError, ControlPlane
from tests.integration.manifest_files import kubectl

SHARED = {"accessMode": "ReadWriteMany"}


def submitted(plane: ControlPlane, namespace: str, **spec: Any) -> str:
    """Create a job and return its path."""
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
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
    plane.post(path, job)
    return f"{path}/scaled"


def test_it_reads_and_writes_the_replicas(control_plane: ControlPlane, namespace: str) -> None:
    path = submitted(control_plane, namespace, serving={"replicas": 1}, storage=SHARED)
    serving = {"replicas": 1, "selector": "finetune.dev/job=scaled"}
    control_plane.merge(f"{path}/status", {"status": {"serving": serving}})
    scale = control_plane.get(f"{path}/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 1}
    assert scale["status"] == serving
    done = kubectl(control_plane, "scale", "-n", namespace, "ftj/scaled", "--replicas=3")
    assert done.returncode == 0, done.stderr
    job = control_plane.get(path)
    assert (job["spec"]["serving"]["replicas"], job["metadata"]["generation"]) == (3, 2)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_the_rules_hold_for_it_too(
    control_plane: ControlPlane, namespace: str, method: str
) -> None:
    path = submitted(control_plane, namespace, serving={"replicas": 1})
    body: dict[str, Any] = {"spec": {"replicas": 2}}
    kind = "application/merge-patch+json"
    if method == "PUT":
        body, kind = control_plane.get(f"{path}/scale") | body, "application/json"
    with pytest.raises(ApiError, match="more than one replica needs a volume") as refusal:
        control_plane.request(method, f"{path}/scale", body, kind)
    assert refusal.value.status == 422
    for replicas in (-1, 65):
        body["spec"] = {"replicas": replicas}
        with pytest.raises(ApiError):
            control_plane.request(method, f"{path}/scale", body, kind)
    body["spec"] = {"replicas": 0}
    control_plane.request(method, f"{path}/scale", body, kind)
    assert control_plane.get(path)["spec"]["serving"] == {"replicas": 0}


def test_replicas_that_nobody_wrote_cannot_be_read(
    control_plane: ControlPlane, namespace: str
) -> None:
    """The price of a schema without defaults; the field's description says so."""
    path = submitted(control_plane, namespace)
    with pytest.raises(ApiError, match="spec replicas field"):
        control_plane.get(f"{path}/scale")
