"""Pull images to the node in the background.

The serving image is needed only after training; pulling it then would take half a minute.
"""

from __future__ import annotations

from typing import Any

from cluster.kubectl import Client

NAMESPACE = "kube-system"


def start(client: Client, *images: str) -> None:
    """Create a Job without work for each image; Kubernetes deletes the Jobs when they finish."""
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
