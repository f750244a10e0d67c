"""What the verbs that ask a model share: the pod that answers, its models, and the key."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import typer

from finetune_api import GROUP, KIND
from finetune_api.contracts import labels
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND, ENDPOINT_PLURAL
from finetune_cli.cluster import api, evidence, pods
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed, WrongCall

KEY_VARIABLE = "FTJ_API_KEY"
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
                names = job.status["sharedModel"].get("names") or [job.name]
                return candidate, str(names[0])
    where = "" if shared is None else f", nor one of {ENDPOINT_KIND} {shared},"
    raise CommandFailed(
        f"no pod of {KIND} {job.name}{where} answers requests, or you may not list pods in "
        f"namespace {job.namespace}: read the state of the job with ftj status {job.name}"
    )


def endpoint(job: Job) -> str | None:
    """Return the FineTuneEndpoint that has the adapter of a job, None without one."""
    name = (job.status.get("sharedModel") or {}).get("endpoint")
    return None if name is None else str(name)


def _is_ready(candidate: Mapping[str, Any], stage: str) -> bool:
    conditions = candidate.get("status", {}).get("conditions") or ()
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
    return ready and pods.label(candidate, pods.STAGE) == stage


def questions_of_stdin() -> str:
    """Return the text of stdin. Raises WrongCall if it is none."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise WrongCall("stdin is no text in UTF-8: convert it, or set the message") from None


def key(cluster: Cluster, job: Job) -> str | None:
    """Return the API key of the endpoint, None if it needs none. Raises CommandFailed."""
    given = os.environ.get(KEY_VARIABLE)
    if given or not _needs_key(cluster, job):
        return given
    if not sys.stdin.isatty():
        raise CommandFailed(f"the endpoint of {KIND} {job.name} needs a key: set {KEY_VARIABLE}")
    asked: str = typer.prompt(f"API key of {job.name}", hide_input=True, err=True)
    return asked


def _needs_key(cluster: Cluster, job: Job) -> bool:
    if (shared := endpoint(job)) is None:
        return bool((job.spec.get("serving") or {}).get("apiKeySecretRef"))
    try:
        found = cluster.get(api.path(ENDPOINT_PLURAL, job.namespace, shared, api=api.JOBS))
    except (Forbidden, NotFound):
        # It is asked without a key, and says if it needs one.
        return False
    return bool(((found.get("spec") or {}).get("access") or {}).get("keysSecretRef"))
