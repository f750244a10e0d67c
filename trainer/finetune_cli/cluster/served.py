"""The pods that answer requests, and the models that they serve."""

from collections.abc import Mapping
from typing import Any

from finetune_api import GROUP, KIND
from finetune_api.contracts import labels
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_cli.cluster import api, evidence, pods
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed

SERVE = "serve"
Object = Mapping[str, Any]


def pod(cluster: Cluster, job: Job) -> tuple[dict[str, Any], str]:
    """Return a pod that answers, whose model is therefore verified, and the name of the model."""
    serving = job.status.get("serving") or {}
    for candidate in evidence.pods_of(cluster, job):
        build = pods.label(candidate, f"{GROUP}/build")
        if _answers(candidate) and build == serving.get("build"):
            return candidate, str(serving.get("model") or job.name)
    raise CommandFailed(
        f"no pod of {KIND} {job.name} answers requests, or you may not list pods in namespace "
        f"{job.namespace}: read the state of the job with ftj status {job.name}"
    )


def pod_of_endpoint(cluster: Cluster, endpoint: Object) -> dict[str, Any]:
    """Return a pod of a shared endpoint that answers. Its gate answers for verified names alone."""
    name, namespace = endpoint["metadata"]["name"], endpoint["metadata"]["namespace"]
    selector = f"{labels.ENDPOINT}={name}"
    for candidate in cluster.visible(api.path("pods", namespace), selector):
        if _answers(candidate):
            return candidate
    raise CommandFailed(
        f"no pod of {ENDPOINT_KIND} {name} answers requests, or you may not list pods in namespace "
        f"{namespace}: read its conditions"
    )


def _answers(candidate: Object) -> bool:
    conditions = (candidate.get("status") or {}).get("conditions") or ()
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
    return ready and pods.label(candidate, pods.STAGE) == SERVE
