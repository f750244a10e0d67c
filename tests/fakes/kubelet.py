"""Fake kubelet for tests against a real API server: writes the status of pods, runs nothing.

A pod of a completed stage has the termination message of the trainer; a serving pod becomes ready.
"""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.api_server.controlplane import ApiError
from tests.support.api_server.namespace import Namespace

from finetune_api.contracts.result import MANIFESTS

IMAGE_ID = "registry.test/trainer@sha256:" + "1" * 64
ARTIFACTS: dict[str, dict[str, Any]] = {
    "prepare": {
        "baseCommit": "c" * 40,
        "datasetDigest": "sha256:d",
        "backend": {
            "name": "trl",
            "version": "1.0",
            "reason": "the trainer image does not contain Unsloth",
            "automatic": "trl",
        },
        "rows": 10,
        "plannedSteps": 30,
    },
    "train": {"adapter": "sha256:a"},
    "merge": {"merged": "sha256:m", "mergedDtype": "float16"},
    "base": {"commit": "c" * 40, "dtype": "float16", "bytes": 1 << 30, "modules": ["q_proj"]},
}


def completed(stage: str, *, gpu_seconds: float = 0.0) -> dict[str, Any]:
    """Return the status of a pod whose stage completed."""
    result = {
        "stage": stage,
        "outcome": "completed",
        "reason": "Completed",
        "message": "",
        "gpuSeconds": gpu_seconds,
        "artifacts": dict.fromkeys(MANIFESTS[stage], "a" * 64) | ARTIFACTS[stage],
        "warnings": [],
    }
    return _status("Succeeded", exit_code=0, result=result)


def published(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a publish pod that has reached each target in its request."""
    (container,) = pod["spec"]["containers"]
    targets = [
        {"name": each["name"], "digest": f"sha256:{each['content']}", "bytes": 1000}
        for each in json.loads(container["args"][0])["targets"]
    ]
    result = {
        "stage": "publish",
        "outcome": "completed",
        "reason": "Completed",
        "message": "",
        "artifacts": {"targets": targets},
    }
    return _status("Succeeded", exit_code=0, result=result)


def failed(
    stage: str, *, code: int, reason: str, message: str, gpu_seconds: float = 0.0
) -> dict[str, Any]:
    """Return the status of a pod whose stage failed with a result."""
    result = {
        "stage": stage,
        "outcome": "failed",
        "reason": reason,
        "message": message,
        "gpuSeconds": gpu_seconds,
    }
    return _status("Failed", exit_code=code, result=result)


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    """Return the status of a pod that terminated without a result."""
    status = _status("Failed", exit_code=code, result={})
    (container,) = status["containerStatuses"]
    container["state"]["terminated"] |= {"reason": reason, "message": ""}
    return status


def serving() -> dict[str, Any]:
    """Return the status of a ready serving pod."""
    return {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "startTime": _now(),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": _now()}],
    }


def start(place: Namespace, pod: dict[str, Any]) -> None:
    """Report a pod as running, or as waiting if a Secret that it references does not exist."""
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", ()):
            name = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            if name and not any(
                secret["metadata"]["name"] == name for secret in place.items("secrets")
            ):
                message = f'secret "{name}" not found'
                report(place, pod, waiting("CreateContainerConfigError", message))
                return
    report(place, pod, running())


def running() -> dict[str, Any]:
    """Return the status of a running pod."""
    return {
        "phase": "Running",
        "startTime": _now(),
        "containerStatuses": [_container({"running": {"startedAt": _now()}})],
    }


def waiting(reason: str, message: str) -> dict[str, Any]:
    """Return the status of a pod whose container cannot be started."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "startTime": _now(), "containerStatuses": [_container(state)]}


def mismatch(message: str) -> dict[str, Any]:
    """Return the status of a serving pod whose verification failed."""
    result = {
        "stage": "verify",
        "outcome": "failed",
        "reason": "VerificationFailed",
        "message": message,
    }
    status = _status("Running", exit_code=83, result=result)
    (container,) = status["containerStatuses"]
    container["name"] = "verify"
    return status


def report(place: Namespace, pod: dict[str, Any], status: dict[str, Any]) -> None:
    """Write the status of a pod, unless the pod was deleted."""
    path = place.path("pods", pod["metadata"]["name"])
    try:
        place.plane.merge(f"{path}/status", {"status": status})
    except ApiError as error:
        if error.status != 404:
            raise


def stage_of(pod: dict[str, Any]) -> str:
    """Return the stage of a pod."""
    return str(pod["metadata"]["labels"]["finetune.dev/stage"])


def _status(phase: str, *, exit_code: int, result: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a terminated pod, which started early enough for its GPU time."""
    started = _now(ago=math.ceil(result.get("gpuSeconds", 0)))
    ended = {
        "exitCode": exit_code,
        "reason": "Completed" if exit_code == 0 else "Error",
        "message": json.dumps(result),
        "startedAt": started,
        "finishedAt": _now(),
    }
    container = _container({"terminated": ended})
    return {"phase": phase, "startTime": started, "containerStatuses": [container]}


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "trainer",
        "ready": "running" in state,
        "restartCount": 0,
        "image": "registry.test/trainer:1",
        "imageID": "" if "waiting" in state else IMAGE_ID,
        "state": state,
    }


def _now(*, ago: int = 0) -> str:
    """Return the present time, or a time some seconds ago."""
    time = datetime.now(UTC) - timedelta(seconds=ago)
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
