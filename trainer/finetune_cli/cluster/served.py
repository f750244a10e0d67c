"""Where the model of a job answers: the pod, the names of the model, and whether it needs a key.

All three are of the same place. While a job moves between pods of its own and a FineTuneEndpoint,
or between two endpoints, its spec and its status also describe the place that it moves to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api import GROUP, KIND
from finetune_api.contracts import labels
from finetune_api.v1alpha1.endpoints.names import BASE_SUFFIX, base_name
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND, ENDPOINT_PLURAL
from finetune_cli.cluster import api, evidence, pods
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed

SHARED_STAGE = "serve-shared"
"""Stage of the pods of a FineTuneEndpoint, in their labels."""
NO_BASE = (
    f". The base model is served under NAME{BASE_SUFFIX} only with serving.mode: adapter or "
    "shared, and on a shared endpoint only if the verification has compared it"
)
"""Hint that follows the error of a request to a base model."""
VLLM_KEY = "VLLM_API_KEY"
"""Environment variable of a job's own serving pods that need a key."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Pods of a job, or of a FineTuneEndpoint, that answer with the verified model of the job."""

    pod: dict[str, Any] | None
    """One that is ready, None if there is none or the user may not list pods."""
    endpoint: str | None
    """Name of the FineTuneEndpoint, None for pods of the job."""
    names: tuple[str, ...]
    """Names of the model in requests, empty if none is served."""
    base: str
    """Name of its base model in requests, which only some modes of serving have."""
    needs_key: bool
    """Whether requests need an API key, as far as is known."""


def place(cluster: Cluster, job: Job) -> Place:
    """Return where the model of a job answers at present. Raises CommandFailed.

    A FineTuneEndpoint answers under a name only with an adapter that it has verified.
    """
    build = (job.status.get("serving") or {}).get("build")
    own = _ready(
        (
            candidate
            for candidate in evidence.pods_of(cluster, job)
            if build is not None and pods.label(candidate, f"{GROUP}/build") == build
        ),
        "serve",
    )
    # While a job moves, the former endpoint has its verified model.
    shared = job.status.get("formerModel") or job.status.get("sharedModel")
    if own is not None or not shared:
        return Place(
            pod=own,
            endpoint=None,
            names=_names(job),
            base=base_name(job.name),
            needs_key=_own_key(job, own),
        )
    endpoint = str(shared["endpoint"])
    names = tuple(str(name) for name in shared.get("names") or [job.name])
    return Place(
        pod=_shared_pod(cluster, job.namespace, endpoint),
        endpoint=endpoint,
        names=names,
        base=base_name(names[0]),
        needs_key=_shared_key(cluster, job.namespace, endpoint),
    )


def answering(asked: Place, job: Job) -> dict[str, Any]:
    """Return the pod of a place. Raises CommandFailed if it has none that answers."""
    if asked.pod is not None:
        return asked.pod
    where = "" if asked.endpoint is None else f", nor one of {ENDPOINT_KIND} {asked.endpoint},"
    raise CommandFailed(
        f"no pod of {KIND} {job.name}{where} answers requests, or you may not list pods in "
        f"namespace {job.namespace}: read the state of the job with ftj status {job.name}"
    )


def pod_of_endpoint(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """Return a pod of an endpoint that answers. Its gate answers for verified names alone."""
    if (pod := _shared_pod(cluster, namespace, name)) is not None:
        return pod
    raise CommandFailed(
        f"no pod of {ENDPOINT_KIND} {name} answers requests, or you may not list pods in namespace "
        f"{namespace}: read its conditions"
    )


def endpoint_needs_key(endpoint: Mapping[str, Any]) -> bool:
    """Report whether requests to a FineTuneEndpoint need an API key."""
    access = (endpoint.get("spec") or {}).get("access") or {}
    return bool(access.get("keysSecretRef"))


def _names(job: Job) -> tuple[str, ...]:
    serving = job.status.get("serving") or {}
    return (str(serving.get("model") or job.name),) if serving.get("build") else ()


def _own_key(job: Job, pod: Mapping[str, Any] | None) -> bool:
    """Report whether pods of a job need a key, which an earlier spec has perhaps demanded."""
    spec = (pod or {}).get("spec") or {}
    return bool((job.spec.get("serving") or {}).get("apiKeySecretRef")) or any(
        variable.get("name") == VLLM_KEY
        for container in spec.get("containers") or ()
        for variable in container.get("env") or ()
    )


def _shared_key(cluster: Cluster, namespace: str, endpoint: str) -> bool:
    try:
        manifest = cluster.get(api.path(ENDPOINT_PLURAL, namespace, endpoint, api=api.JOBS))
    except (Forbidden, NotFound):
        # It is asked without a key, and says if it needs one.
        return False
    return endpoint_needs_key(manifest)


def _shared_pod(cluster: Cluster, namespace: str, endpoint: str) -> dict[str, Any] | None:
    selector = f"{labels.ENDPOINT}={endpoint}"
    return _ready(cluster.visible(api.path("pods", namespace), selector), SHARED_STAGE)


def _ready(candidates: Iterable[dict[str, Any]], stage: str) -> dict[str, Any] | None:
    return next((candidate for candidate in candidates if _is_ready(candidate, stage)), None)


def _is_ready(candidate: Mapping[str, Any], stage: str) -> bool:
    conditions = candidate.get("status", {}).get("conditions") or ()
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
    return ready and pods.label(candidate, pods.STAGE) == stage
