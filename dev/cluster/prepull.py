"""Brings images to the node before they are needed, beside what the node does otherwise.

The serving image is needed only after training; pulled then, it would be half a minute of waiting.
"""

from __future__ import annotations

from typing import Any

from cluster.kubectl import Client

NAMESPACE = "kube-system"


def start(client: Client, *images: str) -> None:
    """One Job for each image that does nothing; Kubernetes removes them when they are done."""
    client.apply(*(_job(image) for image in images))


def _job(image: str) -> dict[str, Any]:
    name, _, tag = image.rpartition("/")[2].partition(":")
    container = {
        "name": "nothing",
        "image": image,
        "command": ["true"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"prepull-{name}-{tag}", "namespace": NAMESPACE},
        "spec": {"ttlSecondsAfterFinished": 30, "backoffLimit": 2, "template": {"spec": pod}},
    }
