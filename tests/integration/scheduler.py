"""Nodes with GPUs for the real kube-scheduler; the tests act as the kubelet.

The status of a node is its heartbeat, which the kubelet writes every ten seconds.
"""

import math
import time
from datetime import UTC, datetime
from typing import Any

from tests.fakes import kubelet
from tests.support.api_server.controlplane import ApiError, ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace

NODES = "/api/v1/nodes"
VOLUMES = "/api/v1/persistentvolumes"
HEARTBEAT_SECONDS = 10.0
"""As a real kubelet. The controller manager of the tests tolerates an hour without a heartbeat."""


class Node:
    """A node with GPUs, and its kubelet."""

    def __init__(self, plane: ControlPlane, name: str, gpus: int) -> None:
        self.plane, self.name, self.gpus = plane, name, gpus
        plane.post(NODES, {"metadata": {"name": name, "labels": {"tests/node": name}}})
        self.beaten = -math.inf
        """Time of the last heartbeat, by the monotonic clock."""
        self.beat()
        wait_until(f"node {name} has no taints", lambda: not self._taints())

    def beat(self) -> None:
        """Report that the node is ready, unless the last heartbeat is recent."""
        if time.monotonic() - self.beaten < HEARTBEAT_SECONDS:
            return
        self.beaten = time.monotonic()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        amounts = {"cpu": "64", "memory": "256Gi", "pods": "100", "nvidia.com/gpu": str(self.gpus)}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        ready |= {"lastHeartbeatTime": now, "lastTransitionTime": now}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
        self.plane.merge(f"{NODES}/{self.name}/status", {"status": status})

    def delete(self) -> None:
        """Delete the node."""
        self.plane.delete(f"{NODES}/{self.name}")

    def _taints(self) -> list[Any]:
        found = self.plane.get(f"{NODES}/{self.name}")["spec"].get("taints", [])
        return list(found)


class Kubelet:
    """A fake kubelet for the pods of a namespace.

    held: stages whose pods start but do not end yet.
    """

    def __init__(self, place: Namespace, node: Node) -> None:
        self.place, self.node = place, node
        self.held: set[str] = set()
        self._reported: set[str] = set()

    def act(self) -> None:
        """Bind volumes, report on scheduled pods, and remove deleted pods."""
        self.node.beat()
        for claim in self.place.items("persistentvolumeclaims"):
            self._bind(claim)
        for pod in self.place.items("pods"):
            stage = kubelet.stage_of(pod)
            if "nodeName" not in pod["spec"]:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self._remove(pod)
            elif pod["metadata"]["uid"] not in self._reported and stage not in self.held:
                self._reported.add(pod["metadata"]["uid"])
                status = kubelet.serving() if stage == "serve" else kubelet.completed(stage)
                kubelet.report(self.place, pod, status)

    def _remove(self, pod: dict[str, Any]) -> None:
        path = self.place.path("pods", pod["metadata"]["name"])
        try:
            self.place.plane.request("DELETE", path, {"gracePeriodSeconds": 0})
        except ApiError as error:
            if error.status != 404:
                raise

    def _bind(self, claim: dict[str, Any]) -> None:
        if claim.get("status", {}).get("phase") != "Pending" or claim["spec"].get("volumeName"):
            return
        uid = claim["metadata"]["uid"]
        name = f"{self.place.name}-{uid}"
        # Without the uid, the controller manager waits for its next resync.
        reference = {"namespace": self.place.name, "name": claim["metadata"]["name"], "uid": uid}
        volume = {
            "metadata": {"name": name},
            "spec": {
                "capacity": claim["spec"]["resources"]["requests"],
                "accessModes": claim["spec"]["accessModes"],
                "hostPath": {"path": "/nowhere"},
                "claimRef": reference,
            },
        }
        try:
            self.place.plane.post(VOLUMES, volume)
        except ApiError as error:
            if error.status != 409:
                raise
