"""What the verbs that ask a model share: the pod that answers, its models, and the key."""

import os
import sys
from typing import Any

import typer

from finetune_api import GROUP, KIND
from finetune_cli.cluster import evidence, pods
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.job import Job
from finetune_cli.errors import CommandFailed, WrongCall

KEY_VARIABLE = "FTJ_API_KEY"


def pod(cluster: Cluster, job: Job) -> tuple[dict[str, Any], str]:
    """Return a pod that answers, whose model is therefore verified, and the name of the model."""
    serving = job.status.get("serving") or {}
    for candidate in evidence.pods_of(cluster, job):
        conditions = candidate.get("status", {}).get("conditions") or ()
        ready = any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in conditions
        )
        build = pods.label(candidate, f"{GROUP}/build")
        if ready and build == serving.get("build") and pods.label(candidate, pods.STAGE) == "serve":
            return candidate, str(serving.get("model") or job.name)
    raise CommandFailed(
        f"no pod of {KIND} {job.name} answers requests, or you may not list pods in namespace "
        f"{job.namespace}: read the state of the job with ftj status {job.name}"
    )


def questions_of_stdin() -> str:
    """Return the text of stdin. Raises WrongCall if it is none."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise WrongCall("stdin is no text in UTF-8: convert it, or set the message") from None


def key(job: Job) -> str | None:
    """Return the API key of the endpoint, None if it needs none. Raises CommandFailed."""
    given = os.environ.get(KEY_VARIABLE)
    if given or not (job.spec.get("serving") or {}).get("apiKeySecretRef"):
        return given
    if not sys.stdin.isatty():
        raise CommandFailed(f"the endpoint of {KIND} {job.name} needs a key: set {KEY_VARIABLE}")
    asked: str = typer.prompt(f"API key of {job.name}", hide_input=True, err=True)
    return asked
