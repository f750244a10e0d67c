"""The Jobs: one attempt at ``stage``, ``train`` or ``merge``, from the same image.

A Job is created once and never patched; another attempt is another Job. Exit codes that no retry
can mend fail it at once, disruptions of the node cost no retry, and no second pod starts while the
first still holds the volume and the GPU. There is no TTL: a finished Job that vanished by itself
would be indistinguishable from one that was never there.
"""

import math
import string
from decimal import Decimal
from typing import Any

from finetune_api.contracts.exitcodes import FINAL
from finetune_api.v1alpha1.resources import ResourceRequirements
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_operator.manifests import pod, sources
from finetune_operator.objects import naming
from finetune_operator.objects.naming import Stage
from finetune_operator.revisions.target import JOB_FILE, TargetRevision
from finetune_operator.types import Object

CONTAINER = "trainer"
WORK = "/work"
CONFIG = "/etc/finetune"
METRICS_PORT = 9400
POD_UID = {
    "name": "FINETUNE_POD_UID",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
}
"""What the trainer says in its metrics, so that nobody takes it for another (``progress``)."""
CARD_LABEL = "nvidia.com/gpu.product"
"""Label that NVIDIA's GPU feature discovery puts on nodes."""
GRACE_SECONDS = 120
"""Enough for a step and its checkpoint, as a rule; some clouds give a spot node no more."""
SAVE_SECONDS = 60
LONGEST_GRACE_SECONDS = 1800


def grace(step_seconds: float | None) -> int:
    """Return how long a trainer that is asked to stop may take, in seconds.

    It ends the step under way, which may have just begun, and saves a checkpoint. The measured
    step time counts twice, since not every step is like the next.
    """
    needed = SAVE_SECONDS + 2 * math.ceil(step_seconds or 0)
    return min(max(GRACE_SECONDS, needed), LONGEST_GRACE_SECONDS)


def render(
    job: Object,
    target: TargetRevision,
    stage: Stage,
    attempt: int,
    *,
    memory: str | None = None,
    step_seconds: float | None = None,
    gpu_seconds_lost: int = 0,
) -> dict[str, Any]:
    """Return the Job of one attempt at a stage.

    memory: for the container, in place of the spec's; step_seconds: of an earlier attempt at
    training; gpu_seconds_lost: spent on volumes that are gone, of which the trainer cannot know.
    """
    spec = target.resolved.spec
    extra = spec.pod_metadata.labels
    labels = naming.labels(
        job,
        component=stage,
        extra=extra,
        revision=target.revision,
        build=target.build if stage == "merge" else None,
        stage=stage,
        attempt=attempt,
    )
    name = naming.job_name(job["metadata"]["name"], target.revision, stage, attempt)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": naming.metadata(job, name, labels | _queue(spec, stage)),
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
                "spec": {
                    **_pod(job, target, stage, memory, gpu_seconds_lost),
                    "terminationGracePeriodSeconds": grace(step_seconds),
                },
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
        naming.QUEUE: spec.queue_name,
        naming.QUEUE_PRIORITY: spec.workload_priority_class_name,
    }
    return {label: value for label, value in wanted.items() if value}


def more_memory(wanted: ResourceRequirements) -> str | None:
    """Return twice the memory that a container has, or None where it has no limit of its own."""
    limit = (wanted.limits or {}).get("memory")
    if limit is None:
        return None
    digits = limit.rstrip(string.ascii_letters)
    return f"{2 * Decimal(digits):f}{limit[len(digits) :]}"


def _with_memory(wanted: ResourceRequirements, memory: str | None) -> ResourceRequirements:
    if memory is None:
        return wanted
    # A request as high: what is not set aside is what another container may take.
    return ResourceRequirements(
        requests={**(wanted.requests or {}), "memory": memory},
        limits={**(wanted.limits or {}), "memory": memory},
    )


def _pod(
    job: Object, target: TargetRevision, stage: Stage, memory: str | None, gpu_seconds_lost: int
) -> dict[str, Any]:
    gpu = stage == "train"
    volumes: list[dict[str, Any]] = [
        {
            "name": "work",
            "persistentVolumeClaim": {
                "claimName": naming.revision_name(job["metadata"]["name"], target.revision)
            },
        },
        {"name": "config", "projected": {"sources": _configuration(job, target, stage)}},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "work", "mountPath": WORK},
        {"name": "config", "mountPath": CONFIG, "readOnly": True},
        {"name": "scratch", "mountPath": pod.SCRATCH},
    ]
    identity = {}
    if stage == "prepare":
        volumes += sources.volumes(target.resolved.spec)
        mounts += sources.mounts(target.resolved.spec)
        identity = sources.identity(target.resolved.spec)
    return {
        **pod.spec(target.config, target.resolved, gpu=gpu),
        **identity,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": CONTAINER,
                "image": target.config.images.trainer,
                "imagePullPolicy": target.config.image_pull_policy,
                "args": [
                    stage,
                    *("--config", f"{CONFIG}/{JOB_FILE}", "--work", WORK),
                    *_own_arguments(target, stage, gpu_seconds_lost),
                ],
                "env": [*_environment(target, stage), POD_UID],
                "ports": [{"name": "metrics", "containerPort": METRICS_PORT}],
                "resources": pod.resources(
                    _with_memory(getattr(target.resolved.spec.resources, stage), memory), gpu=gpu
                ),
                "securityContext": pod.container_security(read_only_root=not gpu),
                "terminationMessagePolicy": "File",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _configuration(job: Object, target: TargetRevision, stage: Stage) -> list[dict[str, Any]]:
    """Return the sources of the configuration folder: job.json, and what staging reads beside."""
    revision = naming.revision_name(job["metadata"]["name"], target.revision)
    own = [sources.file(revision, JOB_FILE, JOB_FILE)]
    return own + sources.files(target.resolved.spec) if stage == "prepare" else own


def _own_arguments(target: TargetRevision, stage: Stage, gpu_seconds_lost: int) -> list[str]:
    spec = target.resolved.spec
    if stage == "prepare":
        return estimated(spec)
    if stage == "train" and spec.run_policy.max_gpu_seconds is not None:
        left = max(0, spec.run_policy.max_gpu_seconds - gpu_seconds_lost)
        return ["--max-gpu-seconds", str(left)]
    if stage == "merge":
        return ["--build", target.build, "--dtype", spec.merge.dtype, "--base", spec.merge.base]
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


def _environment(target: TargetRevision, stage: Stage) -> list[dict[str, Any]]:
    values = dict(pod.WRITABLE_CACHES)
    values |= pod.ON_GPU if stage == "train" else pod.NO_GPU
    if stage != "prepare":
        return pod.environment(values | pod.OFFLINE)
    if target.config.hub.endpoint:
        values["HF_ENDPOINT"] = target.config.hub.endpoint
    return pod.environment(values) + sources.environment(target.resolved.spec)
