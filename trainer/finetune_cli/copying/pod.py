"""The pod that a model is copied from: a one-off pod, or a running pod of the job. Pure.

The one-off pod mounts the volume of the job read-only. It satisfies the restricted Pod Security
Standard, has no API token, and ends by itself if the command is killed before it can delete the
pod. No new pod can mount a terminating claim: it is copied from a pod that has mounted it before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.pod_security import container_security, pod_security
from finetune_cli.copying.selection import MOUNT

CONTAINER = "copy"
DEFAULT_IMAGE = "docker.io/library/debian:bookworm-slim"
LIFETIME_SECONDS = 6 * 3600
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}
"""A volume can be bound to a GPU node. The copy pod requests no GPU."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A container that mounts the whole volume at ``MOUNT``."""

    pod: str
    container: str = CONTAINER


def running_source(pods: Sequence[Mapping[str, Any]], claim: str) -> Source | None:
    """Return a running container that mounts the whole claim, None if there is none.

    pods: the pods of the revision.
    """
    for pod in pods:
        phase = pod.get("status", {}).get("phase")
        if phase != "Running" or "deletionTimestamp" in pod["metadata"]:
            continue
        volumes = {
            volume["name"]
            for volume in pod["spec"].get("volumes") or ()
            if (volume.get("persistentVolumeClaim") or {}).get("claimName") == claim
        }
        for container in pod["spec"]["containers"]:
            for mount in container.get("volumeMounts") or ():
                whole = mount["mountPath"] == str(MOUNT) and not mount.get("subPath")
                if whole and mount["name"] in volumes:
                    return Source(pod=pod["metadata"]["name"], container=container["name"])
    return None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Image and node of the copy pod."""

    image: str = DEFAULT_IMAGE
    pull_secrets: tuple[str, ...] = ()
    node: str | None = None
    """Node of a running pod that mounts the volume; a ReadWriteOnce volume has one node."""
    tolerations: Sequence[Mapping[str, Any]] = ()


def place(jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]) -> Place:
    """Return where to copy from: the trainer image, and the node that has mounted the volume.

    jobs, pods: the Jobs and the pods of the revision.
    """
    template = jobs[0]["spec"]["template"]["spec"] if jobs else None
    running = next((pod for pod in pods if pod.get("status", {}).get("phase") == "Running"), None)
    secrets = (template or {}).get("imagePullSecrets") or ()
    return Place(
        image=template["containers"][0]["image"] if template else DEFAULT_IMAGE,
        pull_secrets=tuple(secret["name"] for secret in secrets),
        node=running["spec"].get("nodeName") if running else None,
        tolerations=tuple((running or {}).get("spec", {}).get("tolerations") or ()),
    )


def render(name: str, claim: str, place: Place) -> dict[str, Any]:
    """Return the pod."""
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFETIME_SECONDS,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "tolerations": [
            GPU_TAINT,
            *(toleration for toleration in place.tolerations if toleration != GPU_TAINT),
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": place.image,
                "command": ["sleep", str(LIFETIME_SECONDS)],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "64Mi"},
                    "limits": {"memory": "256Mi"},
                },
                "securityContext": container_security(read_only_root=True),
                "volumeMounts": [{"name": "work", "mountPath": str(MOUNT), "readOnly": True}],
            }
        ],
        "volumes": [{"name": "work", "persistentVolumeClaim": {"claimName": claim}}],
    }
    if place.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in place.pull_secrets]
    if place.node is not None:
        field = {"key": "metadata.name", "operator": "In", "values": [place.node]}
        spec["affinity"] = {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchFields": [field]}]
                }
            }
        }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "finetune-copy"}},
        "spec": spec,
    }
