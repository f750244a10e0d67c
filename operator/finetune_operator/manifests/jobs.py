"""The Job of one attempt at a stage; all stages use the same image.

A Job is created once and never patched; another attempt is another Job. Terminal exit codes fail
the Job at once, node disruptions do not count as retries, and no second pod starts while the first
still holds the volume and the GPU. Jobs have no TTL: a finished Job that was deleted automatically
could not be distinguished from a Job that was never created.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api import quantity
from finetune_api.contracts.exitcodes import FINAL, ExitCode
from finetune_api.contracts.pod_security import container_security
from finetune_api.contracts.ports import TRAINER_METRICS
from finetune_api.v1alpha1.resources import ResourceRequirements
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.manifests import pod, sources, stage_requests
from finetune_operator.manifests.gpu import devices
from finetune_operator.manifests.publishing import access as publishing
from finetune_operator.manifests.publishing import attestations, shared_endpoint
from finetune_operator.manifests.stage_requests import CONFIG, WORK
from finetune_operator.objects import naming
from finetune_operator.objects.stages import JobStage
from finetune_operator.revisions.documents import JOB_FILE
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

CONTAINER = "trainer"
MIN_GRACE_SECONDS = 120
"""Usually enough for one step and a checkpoint; some clouds give a spot node no longer notice."""
MAX_GRACE_SECONDS = 1800
SAVE_SECONDS = 60
UNDISTURBED = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}
"""Annotations of the pods: an autoscaler does not evict a stage to save a node.

https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md and
https://karpenter.sh/docs/concepts/disruption/#pod-level-controls
"""


def grace_seconds(step_seconds: float | None) -> int:
    """Return the termination grace period of a trainer, in seconds.

    On SIGTERM the trainer completes the current step, which may have just begun, and saves a
    checkpoint. The measured step time counts twice because step times vary.
    """
    needed = SAVE_SECONDS + 2 * math.ceil(step_seconds or 0)
    return min(max(MIN_GRACE_SECONDS, needed), MAX_GRACE_SECONDS)


def render(
    job: Object,
    target: TargetRevision,
    stage: JobStage,
    attempt: int,
    *,
    record: Revision,
    memory: str | None = None,
    step_seconds: float | None = None,
    published: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the Job of one attempt at a stage.

    record: of the revision in the ledger. A train attempt resumes only on the card that saved the
    last checkpoint. memory: memory of the container, instead of the value of the spec.
    step_seconds: measured by an earlier train attempt. published: digests of the contents that the
    job has published, with their places.
    """
    spec = target.resolved.spec
    extra = spec.pod_metadata.labels
    labels = naming.labels(
        job,
        component=stage.name,
        extra=extra,
        revision=target.revision,
        build=target.build if stage.per_build else None,
        stage=stage.name,
        attempt=attempt,
    )
    name = naming.job_name(job["metadata"]["name"], target.revision, stage.name, attempt)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": naming.metadata(job, name, labels | _queue(spec, stage)),
        "spec": {
            **one_pod(
                retries=spec.run_policy.backoff_limit,
                final=_final_codes(stage),
                deadline=_deadline(spec, stage),
            ),
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": dict(UNDISTURBED),
                },
                "spec": {
                    **_pod(job, target, stage, memory, record, published or {}),
                    "terminationGracePeriodSeconds": grace_seconds(step_seconds),
                },
            },
        },
    }


def one_pod(
    *, retries: int, final: Sequence[int] = (), deadline: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return the fields of a Job with one pod at a time. final: exit codes that fail the Job."""
    exited = {"containerName": CONTAINER, "operator": "In", "values": list(final)}
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    # The API server rejects a rule without exit codes.
    fail = [{"action": "FailJob", "onExitCodes": exited}] if final else []
    return {
        "completions": 1,
        "parallelism": 1,
        "backoffLimit": retries,
        **(deadline or {}),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [*fail, {"action": "Ignore", "onPodConditions": [disrupted]}]
        },
    }


def _final_codes(stage: JobStage) -> list[int]:
    """Return the terminal exit codes of a stage.

    A code of publishing is in no other Job: Jobs that an earlier version created stay equal.
    """
    return [code for code in FINAL if stage.publishes or code != ExitCode.PUBLISH_FAILED]


def _deadline(spec: FineTuneJobSpec, stage: JobStage) -> dict[str, int]:
    """Return the deadline of the Job of a stage that reads data from outside, which may never end.

    The duration of other stages depends on the model, and the time in which a Job waits for a GPU
    would count.
    """
    if not stage.reads_sources:
        return {}
    return {"activeDeadlineSeconds": spec.run_policy.prepare_deadline_seconds}


def _queue(spec: FineTuneJobSpec, stage: JobStage) -> dict[str, str]:
    """Return the labels for Kueue, which only the train Job has: no other Job requests a GPU.

    Kueue owns ``spec.suspend`` and the placement in the pod template of a labeled Job. The label on
    pods or on the Deployment would queue these as workloads of their own.
    """
    if not stage.gpu:
        return {}
    labels = {
        naming.QUEUE: spec.queue_name,
        naming.QUEUE_PRIORITY: spec.workload_priority_class_name,
    }
    return {label: value for label, value in labels.items() if value}


def more_memory(resources: ResourceRequirements) -> str | None:
    """Return twice the memory limit of a container, None if it has no memory limit."""
    limit = (resources.limits or {}).get("memory")
    if limit is None:
        return None
    number, suffix = quantity.split(limit)
    return f"{2 * number:f}{suffix}"


def resources_of(target: TargetRevision, stage: JobStage) -> ResourceRequirements:
    """Return the resources of a stage's container, as the spec has them."""
    return target.resolved.spec.resources.of(stage.name)


def _with_memory(resources: ResourceRequirements, memory: str | None) -> ResourceRequirements:
    if memory is None:
        return resources
    # The request equals the limit: memory that is not reserved may be used by other containers.
    return ResourceRequirements(
        requests={**(resources.requests or {}), "memory": memory},
        limits={**(resources.limits or {}), "memory": memory},
    )


def _pod(
    job: Object,
    target: TargetRevision,
    stage: JobStage,
    memory: str | None,
    record: Revision,
    published: Mapping[str, str],
) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {
            "name": "work",
            "persistentVolumeClaim": {
                "claimName": naming.revision_name(job["metadata"]["name"], target.revision)
            },
        },
        {"name": "config", "projected": {"sources": _configuration(job, target, stage, record)}},
        pod.scratch(),
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "work", "mountPath": WORK},
        {"name": "config", "mountPath": CONFIG, "readOnly": True},
        {"name": "scratch", "mountPath": pod.SCRATCH},
    ]
    identity = {}
    published_to = publishing.targets_of(target, stage, record)
    if stage.reads_sources:
        volumes += sources.volumes(target.resolved.spec)
        mounts += sources.mounts(target.resolved.spec)
        identity = sources.identity(target.resolved.spec)
    elif publishing.uses_identity(published_to):
        identity = sources.identity(target.resolved.spec)
    volumes += shared_endpoint.volumes(published_to)
    mounts += shared_endpoint.mounts(job, published_to)
    common = pod.spec(target.config, target.resolved, gpu=stage.gpu, card=record.card)
    if stage.publishes:
        beside = publishing.beside_serving_pods(job, target)
        common["affinity"] = {**common.get("affinity", {}), **beside}
    return {
        **common,
        **identity,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": CONTAINER,
                "image": target.config.images.trainer,
                "imagePullPolicy": target.config.image_pull_policy,
                "args": stage_requests.arguments(job, target, stage, record, published),
                "env": [*_environment(target, stage, record), pod.UID],
                "ports": [{"name": "metrics", "containerPort": TRAINER_METRICS}],
                "resources": pod.resources(
                    _with_memory(resources_of(target, stage), memory),
                    gpu=target.config.gpu if stage.gpu else None,
                ),
                "securityContext": container_security(read_only_root=not stage.gpu),
                "terminationMessagePolicy": "File",
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }


def _configuration(
    job: Object, target: TargetRevision, stage: JobStage, record: Revision
) -> list[dict[str, Any]]:
    """Return the sources of the config volume: job.json, and certificates and rows of a stage."""
    revision = naming.revision_name(job["metadata"]["name"], target.revision)
    own = [sources.file(revision, JOB_FILE, JOB_FILE)]
    if stage.reads_sources:
        return own + sources.files(target.resolved.spec)
    return own + publishing.files(publishing.targets_of(target, stage, record))


def _environment(target: TargetRevision, stage: JobStage, record: Revision) -> list[dict[str, Any]]:
    values = dict(pod.WRITABLE_CACHES)
    if not stage.gpu:
        values |= devices.HIDDEN
    elif target.config.gpu.required:
        values |= devices.REQUIRED
    if not stage.reads_sources:
        targets = publishing.targets_of(target, stage, record)
        offline = {} if publishing.uses_hub(targets) else pod.OFFLINE
        return [
            *pod.environment(values | offline),
            *publishing.environment(targets),
            *attestations.environment(target, targets),
        ]
    if target.config.hub.endpoint:
        values["HF_ENDPOINT"] = target.config.hub.endpoint
    return pod.environment(values) + sources.environment(target.resolved.spec)
