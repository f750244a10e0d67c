"""Serving objects: one Deployment per build, the Service that selects a build, and its budget."""

from typing import Any

from finetune_operator.manifests import pod, verifier, vllm
from finetune_operator.objects import endpoints, naming
from finetune_operator.objects.stages import SERVE
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

_STAGE = SERVE.name


def endpoint(job: Object) -> str:
    """Return the base URL of the OpenAI-compatible API, inside the cluster."""
    meta = job["metadata"]
    return f"http://{naming.service_name(meta['name'])}.{meta['namespace']}.svc:{vllm.PORT}/v1"


def model_name(job: Object, target: TargetRevision) -> str:
    """Return the model name that clients use in requests."""
    return vllm.names(job, target)[0]


def selector(job: Object, build: str) -> dict[str, str]:
    """Return the labels of a build's serving pods."""
    return {naming.JOB: job["metadata"]["name"], naming.STAGE: _STAGE, naming.BUILD: build}


def endpoint_selector(endpoint: str) -> dict[str, str]:
    """Return the labels of the pods of a FineTuneEndpoint."""
    return {naming.ENDPOINT: endpoint, naming.STAGE: endpoints.SERVING}


def selector_text(job: Object, build: str) -> str:
    """Return the label selector of a build's serving pods, as the scale subresource reports it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(job, build).items()))


def deployment(
    job: Object,
    target: TargetRevision,
    model: vllm.ServedModel,
    manifests: verifier.Manifests,
    *,
    replicas: int,
    attempt: int,
) -> dict[str, Any]:
    """Return the Deployment of the target build.

    Within a build a pod is stopped before it is replaced: there may be no second GPU. A new
    ``attempt`` changes the pod template, so that failures of old pods do not count for it.
    """
    labels = naming.labels(
        job,
        component=_STAGE,
        extra=target.resolved.spec.pod_metadata.labels,
        revision=target.revision,
        build=target.build,
        stage=_STAGE,
        attempt=attempt,
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": naming.metadata(
            job, naming.deployment_name(job["metadata"]["name"], target.build), labels
        ),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector(job, target.build)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
            "progressDeadlineSeconds": vllm.deadline_seconds(model),
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(job, target, model, manifests),
            },
        },
    }


def service(
    job: Object, target: TargetRevision, build: str, *, endpoint: str | None = None
) -> dict[str, Any]:
    """Return the Service of the job, which selects the pods of one build.

    endpoint: name of the FineTuneEndpoint that serves the build; its gate decides by model name.
    """
    name = job["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": naming.metadata(job, naming.service_name(name), _labels(job, target)),
        "spec": {
            "type": "ClusterIP",
            # Applying the object restores only fields that it names: these two decide who gets the
            # requests, and whether pods whose model is not verified get them.
            "publishNotReadyAddresses": False,
            "externalIPs": [],
            "selector": selector(job, build) if endpoint is None else endpoint_selector(endpoint),
            "ports": [{"name": "http", "port": vllm.PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def budget(job: Object, target: TargetRevision, build: str) -> dict[str, Any]:
    """Return the PodDisruptionBudget of the serving build: one pod may be evicted at a time."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": naming.metadata(job, naming.service_name(name), _labels(job, target)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(job, build)},
            # The budget must not protect an unready pod: it would only block the drain of its node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _labels(job: Object, target: TargetRevision) -> dict[str, str]:
    return naming.labels(job, component=_STAGE, extra=target.resolved.spec.pod_metadata.labels)


def _pod(
    job: Object, target: TargetRevision, model: vllm.ServedModel, manifests: verifier.Manifests
) -> dict[str, Any]:
    revision = naming.revision_name(job["metadata"]["name"], target.revision)
    return {
        **pod.spec(target.config, target.resolved, gpu=True, serving=True),
        "terminationGracePeriodSeconds": vllm.GRACE_SECONDS,
        "containers": [
            vllm.container(job, target, model),
            verifier.container(job, target, manifests),
        ],
        "volumes": [
            {
                "name": "work",
                "persistentVolumeClaim": {"claimName": revision, "readOnly": True},
            },
            pod.scratch(),
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": target.config.serving.shm_size},
            },
        ],
    }
