"""Names and labels of what a FineTuneEndpoint owns, and which endpoint a job refers to."""

from typing import Any

from finetune_api import KIND
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.digest import sha256
from finetune_operator.types import Object

JOB_KIND = KIND
"""Kind of the objects whose models an endpoint serves."""
BASE = "base"
"""Value of the label ``stage`` of the pod that prepares the base."""
PRUNE = "prune"
"""Value of the label ``stage`` of the pod that removes the folder of a deleted job."""
MODELS = ("sharedModel", "formerModel")
"""Fields of a job's status with the models that endpoints serve."""
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


def prune_job_name(endpoint: str, uid: str) -> str:
    """Return the name of the Job that removes the folder of a job with a UID.

    With the longest name of an endpoint, it has 63 characters, the limit for a Job.
    """
    return f"{endpoint}-finetune-prune-{sha256(uid)[:7]}"


def prune_policy_name(endpoint: str) -> str:
    """Return the name of the NetworkPolicy of the pods that remove folders."""
    return f"{endpoint}-endpoint-prune"


def labels(endpoint: Object, *, component: str, **own: str | int) -> dict[str, str]:
    """Return the labels of a child. ``own``: ``stage``, ``attempt`` and ``job-uid``."""
    name = endpoint["metadata"]["name"]
    return {
        "app.kubernetes.io/name": "finetune-endpoint",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": component,
        naming.MANAGER: naming.MANAGED_BY,
        naming.ENDPOINT: name,
        **{f"{naming.PREFIX}/{key}": str(value) for key, value in own.items()},
    }


def selector(endpoint: Object, stage: str) -> dict[str, str]:
    """Return the labels that select the pods of an endpoint."""
    return {naming.ENDPOINT: endpoint["metadata"]["name"], naming.STAGE: stage}


def reference(job: Object) -> dict[str, Any] | None:
    """Return the part of a job from which its endpoint is planned, None if it refers to none.

    A job refers to the endpoint in its spec, and to those in its status, which have its models.
    """
    serving: dict[str, Any] = job["spec"].get("serving") or {}
    if not status_view.endpoint_names(job):
        return None
    status = job.get("status") or {}
    metadata = job["metadata"]
    identity = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp")
    return {
        "metadata": {name: metadata[name] for name in identity if name in metadata},
        "spec": {
            "serving": {
                name: serving[name]
                for name in ("enabled", "mode", "endpointRef")
                if name in serving
            }
        },
        "status": {name: status[name] for name in MODELS if status.get(name) is not None},
    }


def referred(reference: Object) -> frozenset[str]:
    """Return the names of the endpoints in a job's spec and status."""
    return frozenset(status_view.endpoint_names(reference))
