"""The claim, the Service, the budget and the list of names of an endpoint."""

from typing import Any

from finetune_api.contracts.ports import GATE
from finetune_operator.objects import endpoints, naming
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import Object

WANTED = "wanted.json"
"""Key of the ConfigMap with the signed list of names."""


def url(endpoint: Object) -> str:
    """Return the base URL of the OpenAI-compatible API, inside the cluster."""
    metadata = endpoint["metadata"]
    return f"http://{endpoints.object_name(metadata['name'])}.{metadata['namespace']}.svc:{GATE}/v1"


def claim(endpoint: Object, target: TargetEndpoint) -> dict[str, Any]:
    """Return the PersistentVolumeClaim with the base and the adapters."""
    storage = target.spec.storage
    spec: dict[str, Any] = {
        "accessModes": [storage.access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": naming.VOLUME,
        "metadata": _metadata(endpoint, "volume"),
        "spec": spec,
    }


def configmap(endpoint: Object, wanted: str) -> dict[str, Any]:
    """Return the ConfigMap with the signed list of names, which the gate checks."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(endpoint, "names"),
        "data": {WANTED: wanted},
    }


def service(endpoint: Object) -> dict[str, Any]:
    """Return the Service of the endpoint."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(endpoint, endpoints.SERVING),
        "spec": {
            "type": "ClusterIP",
            # Applying the object restores only fields that it names: these two decide who gets the
            # requests, and whether pods that are not ready get them.
            "publishNotReadyAddresses": False,
            "externalIPs": [],
            "selector": endpoints.selector(endpoint, endpoints.SERVING),
            "ports": [{"name": "http", "port": GATE, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def budget(endpoint: Object) -> dict[str, Any]:
    """Return the PodDisruptionBudget: the pod may be evicted, for there is only one GPU."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata(endpoint, endpoints.SERVING),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": endpoints.selector(endpoint, endpoints.SERVING)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _metadata(endpoint: Object, component: str) -> dict[str, Any]:
    name = endpoints.object_name(endpoint["metadata"]["name"])
    return naming.metadata(endpoint, name, endpoints.labels(endpoint, component=component))
