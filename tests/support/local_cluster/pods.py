"""Run a script of ``scripts/`` in a pod, like any user of the cluster."""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.local_cluster.kubectl import Object
from tests.support.local_cluster.target import REPOSITORY, Cluster, is_ready

SCRIPTS = REPOSITORY / "tests" / "e2e" / "scripts"
RESULT = "RESULT "
"""Prefix of the line that contains the result of a script."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A script to run in a pod.

    claim: a volume that is mounted read-only at /work; writable: claims that are mounted writable,
    by mount path; ready: a file that the script writes when the caller can continue.
    """

    script: str
    image: str
    given: Any = None
    claim: str = ""
    writable: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""
    memory: str = "256Mi"


def run(cluster: Cluster, namespace: str, task: Task, *, seconds: float = 900) -> Any:
    """Run a task to its end and return its result. The pod is deleted afterwards."""
    with started(cluster, namespace, task) as name:
        return result(cluster, namespace, name, seconds=seconds)


@contextmanager
def started(cluster: Cluster, namespace: str, task: Task, *, user: str = "") -> Iterator[str]:
    """Start a task and yield the name of its pod; delete the pod unless the block failed.

    user: creates the pod, instead of the administrator.
    """
    name = f"{task.script.removesuffix('.py').replace('_', '-')}-{uuid.uuid4().hex[:6]}"
    cluster.kubectl.apply(*objects(name, namespace, task), user=user)
    yield name
    cluster.kubectl.delete("pod", name, namespace)
    cluster.record.wait(
        f"pod {name} is deleted",
        lambda: cluster.record.find("Pod", namespace, name) is None,
        seconds=240,
    )


def result(cluster: Cluster, namespace: str, name: str, *, seconds: float) -> Any:
    """Wait until a started task has ended; return its result."""

    def ended() -> Object | None:
        pod = cluster.record.find("Pod", namespace, name)
        over = pod is not None and pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        return pod if over else None

    pod = cluster.record.wait(f"pod {name} has ended", ended, seconds=seconds)
    log = cluster.kubectl.logs(name, namespace)
    assert pod["status"]["phase"] == "Succeeded", f"{name} failed:\n{log}"
    return _result(log)


def wait_until_ready(cluster: Cluster, namespace: str, name: str, *, seconds: float = 240) -> None:
    """Wait until a started task has written its ``ready`` file."""

    def ready() -> bool:
        pod = cluster.record.find("Pod", namespace, name)
        return pod is not None and is_ready(pod)

    cluster.record.wait(f"pod {name} is ready", ready, seconds=seconds)


def inside(
    cluster: Cluster, namespace: str, pod: str, script: str, *given: str, user: str = ""
) -> Any:
    """Run a script with arguments in an existing pod, as a user; return its result."""
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    done = cluster.kubectl.execute(pod, namespace, ["python", "-c", text, *given], user=user)
    assert done.returncode == 0, f"{script} failed in {pod}:\n{done.stdout}\n{done.stderr}"
    return _result(done.stdout)


def _result(log: str) -> Any:
    (line,) = [line for line in log.splitlines() if line.startswith(RESULT)]
    return json.loads(line.removeprefix(RESULT))


def objects(name: str, namespace: str, task: Task) -> list[Object]:
    """Return the ConfigMap and the pod of a task."""
    metadata = {"name": name, "namespace": namespace}
    files = {
        "script.py": (SCRIPTS / task.script).read_text(encoding="utf-8"),
        "given.json": json.dumps(task.given),
    }
    volumes: list[Object] = [
        {"name": "task", "configMap": {"name": name}},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts: list[Object] = [
        {"name": "task", "mountPath": "/task", "readOnly": True},
        {"name": "scratch", "mountPath": "/tmp"},
    ]
    if task.claim:
        claim = {"claimName": task.claim, "readOnly": True}
        volumes.append({"name": "work", "persistentVolumeClaim": claim})
        mounts.append({"name": "work", "mountPath": "/work", "readOnly": True})
    for number, (path, name_of_claim) in enumerate(task.writable.items()):
        volumes.append(
            {"name": f"own-{number}", "persistentVolumeClaim": {"claimName": name_of_claim}}
        )
        mounts.append({"name": f"own-{number}", "mountPath": path})
    probe: Object = {"exec": {"command": ["cat", task.ready]}, "periodSeconds": 1}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "runAsGroup": 1000,
                    "fsGroup": 1000,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "task",
                        "image": task.image,
                        "command": ["python", "/task/script.py", "/task/given.json"],
                        "env": [
                            {"name": "HOME", "value": "/tmp"},
                            {"name": "HF_HOME", "value": "/tmp/hf"},
                            {"name": "HF_HUB_OFFLINE", "value": "1"},
                            # Spinning threads slow down each other on a machine with few cores.
                            {"name": "OMP_WAIT_POLICY", "value": "PASSIVE"},
                        ],
                        "resources": {"requests": {"memory": task.memory}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                            "readOnlyRootFilesystem": True,
                        },
                        "volumeMounts": mounts,
                        **({"readinessProbe": probe} if task.ready else {}),
                    }
                ],
                "volumes": volumes,
            },
        },
    ]
