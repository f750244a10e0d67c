"""The endpoint: a Deployment of vLLM for each build, and the Service that selects one of them."""

from typing import Any

from finetune_operator.children import names, pod
from finetune_operator.revisions import Chosen
from finetune_operator.state import Object

CONTAINER = "vllm"
PORT = 8000
MODEL = "/model"
PROBE_PERIOD = 5
STARTUP_SECONDS = 1800
"""Longest time that loading a model may take; the rollout's deadline lies beyond it."""

GRACE_SECONDS = 30
"""Time for running requests to end. While vLLM still imports it hears no signal, so a pod that is
deleted then holds its GPU and its volume for all of this time."""

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": f"{pod.SCRATCH}/vllm"}


def endpoint(job: Object) -> str:
    """Return the base URL of the OpenAI-compatible API, inside the cluster."""
    meta = job["metadata"]
    return f"http://{names.service_name(meta['name'])}.{meta['namespace']}.svc:{PORT}/v1"


def deployment(job: Object, chosen: Chosen, merged_dtype: str) -> dict[str, Any]:
    """Return the Deployment of the chosen build.

    ``merged_dtype`` is the number format that the merge chose; it is always given to vLLM, which
    would otherwise guess. One replica on one GPU can only be replaced by stopping it first.
    """
    labels = _labels(job, chosen)
    selector = {key: labels[key] for key in (names.JOB, names.BUILD, names.STAGE)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": names.metadata(
            job, names.deployment_name(job["metadata"]["name"], chosen.build), labels
        ),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
            "progressDeadlineSeconds": STARTUP_SECONDS + 300,
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(job, chosen, merged_dtype),
            },
        },
    }


def service(job: Object, chosen: Chosen, build: str) -> dict[str, Any]:
    """Return the Service that users talk to, selecting one build."""
    name = job["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": names.metadata(
            job,
            names.service_name(name),
            names.labels(job, component="serve", extra=chosen.resolved.spec.pod_metadata.labels),
        ),
        "spec": {
            "type": "ClusterIP",
            "selector": {names.JOB: name, names.STAGE: "serve", names.BUILD: build},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _labels(job: Object, chosen: Chosen) -> dict[str, str]:
    return names.labels(
        job,
        component="serve",
        extra=chosen.resolved.spec.pod_metadata.labels,
        revision=chosen.revision,
        build=chosen.build,
        stage="serve",
    )


def _pod(job: Object, chosen: Chosen, merged_dtype: str) -> dict[str, Any]:
    config, spec = chosen.config, chosen.resolved.spec
    settings = config.serving
    arguments = [
        "--served-model-name",
        job["metadata"]["name"],
        "--dtype",
        settings.dtype or merged_dtype,
        "--gpu-memory-utilization",
        str(spec.serving.gpu_memory_utilization),
        "--host",
        "0.0.0.0",
        "--port",
        str(PORT),
    ]
    if spec.serving.max_model_len is not None:
        arguments += ["--max-model-len", str(spec.serving.max_model_len)]
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": PROBE_PERIOD}
    return {
        **pod.spec(config, chosen.resolved, gpu=True),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [
            {
                "name": CONTAINER,
                "image": config.images.serving,
                "imagePullPolicy": config.image_pull_policy,
                "command": list(settings.command),
                "args": arguments + list(settings.args),
                "env": pod.environment(
                    {**pod.WRITABLE_CACHES, **pod.OFFLINE, **QUIET, **settings.env}
                ),
                "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
                "startupProbe": {
                    **health,
                    "periodSeconds": 2,
                    "failureThreshold": STARTUP_SECONDS // 2,
                },
                "readinessProbe": {**health, "timeoutSeconds": 5, "failureThreshold": 3},
                "livenessProbe": {
                    **health,
                    "periodSeconds": 10,
                    "timeoutSeconds": 10,
                    "failureThreshold": 6,
                },
                "resources": pod.resources(spec.resources.serve, gpu=True),
                "securityContext": pod.container_security(read_only_root=False),
                "volumeMounts": [
                    {
                        "name": "work",
                        "mountPath": MODEL,
                        "subPath": f"merged-{chosen.build}",
                        "readOnly": True,
                    },
                    {"name": "scratch", "mountPath": pod.SCRATCH},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {
                "name": "work",
                "persistentVolumeClaim": {
                    "claimName": names.revision_name(job["metadata"]["name"], chosen.revision),
                    "readOnly": True,
                },
            },
            {"name": "scratch", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shm_size}},
        ],
    }
