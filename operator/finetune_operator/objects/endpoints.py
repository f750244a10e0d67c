"""Names and labels of what a FineTuneEndpoint owns, and which endpoint a job refers to."""

from typing import Any

from finetune_operator.objects import naming, status_view
from finetune_operator.types import Object

BASE = "base"
"""Value of the label ``stage`` of the pod that prepares the base."""
SERVING = "serve-shared"
"""Value of the label ``stage`` of the pod with vLLM and the gate."""


def object_name(endpoint: str) -> str:
    """Return the name of the claim, the Service, the ConfigMap and the policies of an endpoint."""
    return f"{endpoint}-endpoint"


def deployment_name(endpoint: str) -> str:
    """Return the name of the Deployment.

    Processes in its pods are reserved by their names, so that no other pod may be called so.
    """
    return f"{endpoint}-finetune-endpoint"


def base_job_name(endpoint: str, attempt: int) -> str:
    """Return the name of the Job of an attempt to prepare the base."""
    return f"{endpoint}-finetune-base-{attempt}"


def base_policy_name(endpoint: str) -> str:
    """Return the name of the NetworkPolicy of the pods that prepare the base."""
    return f"{endpoint}-endpoint-base"


def labels(endpoint: Object, *, component: str, **own: str | int) -> dict[str, str]:
    """Return the labels of a child. ``own``: ``stage`` and ``attempt``."""
    name = endpoint["metadata"]["name"]
    return {
        "app.kubernetes.io/name": "finetune-endpoint",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": naming.MANAGED_BY,
        naming.ENDPOINT: name,
        **{f"{naming.PREFIX}/{key}": str(value) for key, value in own.items()},
    }


def selector(endpoint: Object, stage: str) -> dict[str, str]:
    """Return the labels that select the pods of an endpoint."""
    return {naming.ENDPOINT: endpoint["metadata"]["name"], naming.STAGE: stage}


def refers_to(job: Object) -> str | None:
    """Return the name of the endpoint that the spec or the status of a job names, or None."""
    serving: dict[str, Any] = job["spec"].get("serving") or {}
    written = (serving.get("endpointRef") or {}).get("name")
    model = status_view.shared_model(job)
    return str(written) if written is not None else (model or {}).get("endpoint")
