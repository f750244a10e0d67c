"""The pods that answer requests, the models that they serve, and whether they need a key."""

from collections.abc import Mapping
from typing import Any

from finetune_api import GROUP, KIND
from finetune_api.contracts import labels
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND, ENDPOINT_PLURAL
from finetune_cli.cluster import api, evidence, pods
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed

SHARED_STAGE = "serve-shared"
"""Stage of the pods of a FineTuneEndpoint, in their labels."""


def pod(cluster: Cluster, job: Job) -> tuple[dict[str, Any], str]:
    """Return a pod that answers, whose model is therefore verified, and the name of the model.

    A FineTuneEndpoint answers under a name only with an adapter that it has verified.
    """
    serving = job.status.get("serving") or {}
    for candidate in evidence.pods_of(cluster, job):
        build = pods.label(candidate, f"{GROUP}/build")
        if _is_ready(candidate, "serve") and build == serving.get("build"):
            return candidate, str(serving.get("model") or job.name)
    if (shared := endpoint(job)) is not None:
        selector = f"{labels.ENDPOINT}={shared}"
        for candidate in cluster.visible(api.path("pods", job.namespace), selector):
            if _is_ready(candidate, SHARED_STAGE):
                return candidate, shared_names(job)[0]
    where = "" if shared is None else f", nor one of {ENDPOINT_KIND} {shared},"
    raise CommandFailed(
        f"no pod of {KIND} {job.name}{where} answers requests, or you may not list pods in "
        f"namespace {job.namespace}: read the state of the job with ftj status {job.name}"
    )


def endpoint(job: Job) -> str | None:
    """Return the FineTuneEndpoint that has the adapter of a job, None without one."""
    name = (job.status.get("sharedModel") or {}).get("endpoint")
    return None if name is None else str(name)


def shared_names(job: Job) -> list[str]:
    """Return the names under which an endpoint answers with the adapter of a job."""
    names = (job.status.get("sharedModel") or {}).get("names") or [job.name]
    return [str(name) for name in names]


def pod_of_endpoint(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """Return a pod of an endpoint that answers. Its gate answers for verified names alone."""
    selector = f"{labels.ENDPOINT}={name}"
    for candidate in cluster.visible(api.path("pods", namespace), selector):
        if _is_ready(candidate, SHARED_STAGE):
            return candidate
    raise CommandFailed(
        f"no pod of {ENDPOINT_KIND} {name} answers requests, or you may not list pods in namespace "
        f"{namespace}: read its conditions"
    )


def needs_key(cluster: Cluster, job: Job) -> bool:
    """Report whether requests to the model of a job need an API key, as far as is known."""
    if (shared := endpoint(job)) is None:
        return bool((job.spec.get("serving") or {}).get("apiKeySecretRef"))
    try:
        found = cluster.get(api.path(ENDPOINT_PLURAL, job.namespace, shared, api=api.JOBS))
    except (Forbidden, NotFound):
        # It is asked without a key, and says if it needs one.
        return False
    return bool(((found.get("spec") or {}).get("access") or {}).get("keysSecretRef"))


def _is_ready(candidate: Mapping[str, Any], stage: str) -> bool:
    conditions = candidate.get("status", {}).get("conditions") or ()
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
    return ready and pods.label(candidate, pods.STAGE) == stage
