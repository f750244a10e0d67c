"""The Jobs: one attempt at ``stage``, ``train`` or ``merge``, from the same image.

A Job is created once and never patched; another attempt is another Job. Exit codes that no retry
can mend fail it at once, disruptions of the node cost no retry, and no second pod starts while the
first still holds the volume and the GPU. There is no TTL: a finished Job that vanished by itself
would be indistinguishable from one that was never there.
"""

from typing import Any

from finetune_api.exitcodes import FINAL
from finetune_api.spec import CONFIGMAP_SOURCE_PREFIX, FineTuneJobSpec
from finetune_operator.children import names, pod
from finetune_operator.children.names import Stage
from finetune_operator.revisions import JOB_FILE, Chosen
from finetune_operator.state import Object

CONTAINER = "trainer"
WORK = "/work"
CONFIG = "/etc/finetune"
METRICS_PORT = 9400
CARD_LABEL = "nvidia.com/gpu.product"
"""Label that NVIDIA's GPU feature discovery puts on nodes."""
GRACE_SECONDS = 120
"""Longest time that a checkpoint may take; some clouds give a spot node no more than this."""


def render(job: Object, chosen: Chosen, stage: Stage, attempt: int) -> dict[str, Any]:
    """Return the Job of one attempt at a stage."""
    spec = chosen.resolved.spec
    extra = spec.pod_metadata.labels
    labels = names.labels(
        job,
        component=stage,
        extra=extra,
        revision=chosen.revision,
        build=chosen.build if stage == "merge" else None,
        stage=stage,
        attempt=attempt,
    )
    name = names.job_name(job["metadata"]["name"], chosen.revision, stage, attempt)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": names.metadata(job, name, labels | _queue(spec, stage)),
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": spec.run_policy.backoff_limit,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": list(FINAL),
                        },
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
                },
                "spec": _pod(job, chosen, stage),
            },
        },
    }


def _queue(spec: FineTuneJobSpec, stage: Stage) -> dict[str, str]:
    """Return Kueue's labels: on the train Job alone, since no other stage asks for a GPU.

    Kueue writes ``spec.suspend`` and the placement in the pod template from then on; a label on the
    pods or on the Deployment would queue those by themselves.
    """
    if stage != "train":
        return {}
    wanted = {
        names.QUEUE: spec.queue_name,
        names.QUEUE_PRIORITY: spec.workload_priority_class_name,
    }
    return {label: value for label, value in wanted.items() if value}


def _pod(job: Object, chosen: Chosen, stage: Stage) -> dict[str, Any]:
    gpu = stage == "train"
    volumes: list[dict[str, Any]] = [
        {
            "name": "work",
            "persistentVolumeClaim": {
                "claimName": names.revision_name(job["metadata"]["name"], chosen.revision)
            },
        },
        {"name": "config", "projected": {"sources": _configuration(job, chosen, stage)}},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "work", "mountPath": WORK},
        {"name": "config", "mountPath": CONFIG, "readOnly": True},
        {"name": "scratch", "mountPath": pod.SCRATCH},
    ]
    return {
        **pod.spec(chosen.config, chosen.resolved, gpu=gpu),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [
            {
                "name": CONTAINER,
                "image": chosen.config.images.trainer,
                "imagePullPolicy": chosen.config.image_pull_policy,
                "args": [
                    stage,
                    *("--config", f"{CONFIG}/{JOB_FILE}", "--work", WORK),
                    *_own_arguments(chosen, stage),
                ],
                "env": _environment(chosen, stage),
                "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
                "resources": pod.resources(getattr(chosen.resolved.spec.resources, stage), gpu=gpu),
                "securityContext": pod.container_security(read_only_root=not gpu),
                "terminationMessagePolicy": "File",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _configuration(job: Object, chosen: Chosen, stage: Stage) -> list[dict[str, Any]]:
    """Return the sources of the configuration folder: job.json, and a dataset in a ConfigMap."""
    revision = names.revision_name(job["metadata"]["name"], chosen.revision)
    sources = [_file(revision, JOB_FILE, JOB_FILE)]
    dataset = chosen.resolved.spec.dataset.source
    if stage == "stage" and dataset.startswith(CONFIGMAP_SOURCE_PREFIX):
        name, key = dataset.removeprefix(CONFIGMAP_SOURCE_PREFIX).split("/", 1)
        sources.append(_file(name, key, f"dataset/{key}"))
    return sources


def _file(configmap: str, key: str, path: str) -> dict[str, Any]:
    return {"configMap": {"name": configmap, "items": [{"key": key, "path": path}]}}


def _own_arguments(chosen: Chosen, stage: Stage) -> list[str]:
    spec = chosen.resolved.spec
    if stage == "stage":
        return estimated(spec)
    if stage == "train" and spec.run_policy.max_gpu_seconds is not None:
        return ["--max-gpu-seconds", str(spec.run_policy.max_gpu_seconds)]
    if stage == "merge":
        return ["--build", chosen.build, "--dtype", spec.merge.dtype, "--base", spec.merge.base]
    return []


def estimated(spec: FineTuneJobSpec) -> list[str]:
    """Return what staging holds the job against: the card, and how it will be served.

    Not in job.json, which is frozen: another card or context length gives a refused job another
    attempt.
    """
    serving, arguments = spec.serving, []
    if card := (spec.placement.node_selector or {}).get(CARD_LABEL):
        arguments += ["--card", card]
    if serving.enabled:
        arguments += ["--serving-share", str(serving.gpu_memory_utilization)]
        if serving.max_model_len is not None:
            arguments += ["--serving-length", str(serving.max_model_len)]
    from_adapter = serving.enabled and serving.mode == "adapter"
    merges = spec.merge.enabled and not from_adapter
    return arguments if merges else [*arguments, "--no-merge"]


def _environment(chosen: Chosen, stage: Stage) -> list[dict[str, Any]]:
    values = dict(pod.WRITABLE_CACHES)
    if stage != "train":
        values |= pod.NO_GPU
    if stage != "stage":
        return pod.environment(values | pod.OFFLINE)
    if chosen.config.hub.endpoint:
        values["HF_ENDPOINT"] = chosen.config.hub.endpoint
    spec = chosen.resolved.spec
    return (
        pod.environment(values)
        + pod.secret("MODEL_HF_TOKEN", spec.model.token_secret_ref)
        + pod.secret("DATASET_HF_TOKEN", spec.dataset.token_secret_ref)
    )
