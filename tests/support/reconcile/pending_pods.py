"""Pods that cannot start, and the events about them."""

from tests.fakes.apiserver import Thing


def waiting(reason: str, message: str) -> Thing:
    """Return the status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "phase": "Pending",
        "containerStatuses": [{"name": "trainer", "image": "registry/trainer:1", "state": state}],
    }


def unscheduled(message: str) -> Thing:
    """Return the status of a pod that no node fits."""
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


PODS = {
    "Unschedulable": unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
    "VolumePending": unscheduled("pod has unbound immediate PersistentVolumeClaims"),
    "SecretMissing": waiting("CreateContainerConfigError", 'secret "hf-token" not found'),
    "ConfigMapMissing": waiting("CreateContainerConfigError", 'configmap "rows" not found'),
    "ImagePullFailed": waiting("ImagePullBackOff", "Back-off pulling image"),
    "RunContainerError": waiting("RunContainerError", "exec: not found"),
}


def event(about: Thing, reason: str, note: str, time: str) -> Thing:
    """Return a warning event in the form of events.k8s.io/v1."""
    return {
        "metadata": {"creationTimestamp": time},
        "type": "Warning",
        "reason": reason,
        "note": note,
        "regarding": {"uid": about["metadata"]["uid"]},
    }
