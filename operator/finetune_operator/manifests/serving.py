"""The endpoint: a Deployment for each build, the Service that selects one of them, its budget."""

from typing import Any

from finetune_operator.manifests import pod, verifier, vllm
from finetune_operator.objects import naming
from finetune_operator.revisions.target import JOB_FILE, TargetRevision
from finetune_operator.types import Object


def endpoint(job: Object) -> str:
    """Return the base URL of the OpenAI-compatible API, inside the cluster."""
    meta = job["metadata"]
    return f"http://{naming.service_name(meta['name'])}.{meta['namespace']}.svc:{vllm.PORT}/v1"


def selector(job: Object, build: str) -> dict[str, str]:
    """Return the labels of a build's serving pods."""
    return {naming.JOB: job["metadata"]["name"], naming.STAGE: "serve", naming.BUILD: build}


def selector_text(job: Object, build: str) -> str:
    """Return the labels of a build's serving pods, as autoscalers read them."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(job, build).items()))


def deployment(
    job: Object, target: TargetRevision, model: vllm.Model, *, replicas: int, attempt: int
) -> dict[str, Any]:
    """Return the Deployment of the chosen build.

    Within a build a pod can only be replaced by stopping it first: there may be no other GPU. A
    new ``attempt`` at serving has new pods, so that nobody takes the old ones' failure for its own.
    """
    labels = naming.labels(
        job,
        component="serve",
        extra=target.resolved.spec.pod_metadata.labels,
        revision=target.revision,
        build=target.build,
        stage="serve",
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
            "template": {"metadata": {"labels": labels}, "spec": _pod(job, target, model)},
        },
    }


def service(job: Object, target: TargetRevision, build: str) -> dict[str, Any]:
    """Return the Service that users talk to, selecting one build."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": naming.metadata(job, naming.service_name(name), _labels(job, target)),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(job, build),
            "ports": [{"name": "http", "port": vllm.PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def budget(job: Object, target: TargetRevision, build: str) -> dict[str, Any]:
    """Return the PodDisruptionBudget of the build that serves: one pod at a time may be evicted."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": naming.metadata(job, naming.service_name(name), _labels(job, target)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(job, build)},
            # A pod that does not answer protects nobody, and would hold up its node's drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _labels(job: Object, target: TargetRevision) -> dict[str, str]:
    return naming.labels(job, component="serve", extra=target.resolved.spec.pod_metadata.labels)


def _pod(job: Object, target: TargetRevision, model: vllm.Model) -> dict[str, Any]:
    revision = naming.revision_name(job["metadata"]["name"], target.revision)
    return {
        **pod.spec(target.config, target.resolved, gpu=True, serving=True),
        "terminationGracePeriodSeconds": vllm.GRACE_SECONDS,
        "containers": [vllm.container(job, target, model), verifier.container(job, target)],
        "volumes": [
            {
                "name": "work",
                "persistentVolumeClaim": {"claimName": revision, "readOnly": True},
            },
            {
                "name": "config",
                "configMap": {
                    "name": revision,
                    "items": [{"key": JOB_FILE, "path": JOB_FILE}],
                },
            },
            {"name": "scratch", "emptyDir": {}},
            {
                "name": "shm",
                "emptyDir": {"medium": "Memory", "sizeLimit": target.config.serving.shm_size},
            },
        ],
    }
