"""The objects of the examples: one job serves, one has failed, and one waits for the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.defaulting import builtin_defaults, resolve
from finetune_api.revision_hash import text_digest

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
NAMESPACE, NODE = "team-a", "gpu-1"
JOBS = f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
BATCH = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
Object = dict[str, Any]


def ago(minutes: int) -> str:
    """Return a time some minutes before the present time of the examples."""
    return (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


def _condition(type_: str, status: str, reason: str, message: str, minutes: int) -> Object:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": ago(minutes),
    }


def _job(name: str, revision: str, conditions: list[Object], **status: Any) -> Object:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {
            "model": {"source": "hf://org/base-8b"},
            "dataset": {"source": f"hf://org/{name}-rows"},
        },
        "status": {
            "observedGeneration": 1,
            "revision": revision,
            "build": "5e8a1f00",
            "conditions": conditions,
            **status,
        },
    }


def _attempt(stage: str, outcome: str, **more: Any) -> Object:
    build = {"build": "5e8a1f00"} if stage in ("merge", "serve") else {}
    return {"stage": stage, "attempt": 1, "outcome": outcome, **build, **more}


def _stage_job(name: str, revision: str, stage: str, begin: int, end: int | None) -> Object:
    labels = {
        "finetune.dev/job": name,
        "finetune.dev/revision": revision,
        "finetune.dev/stage": stage,
        "finetune.dev/attempt": "1",
    }
    if stage == "merge":
        labels["finetune.dev/build"] = "5e8a1f00"
    status = {"startTime": ago(begin)} | ({} if end is None else {"completionTime": ago(end)})
    return {"metadata": {"name": f"{name}-{stage}", "labels": labels}, "status": status}


def _pod(name: str, stage: str, node: str | None, begin: int, **status: Any) -> Object:
    labels = {"finetune.dev/job": name, "finetune.dev/stage": stage}
    limits = {"limits": {"nvidia.com/gpu": "1"}}
    return {
        "metadata": {
            "name": f"{name}-{stage}-x7k2p",
            "namespace": NAMESPACE,
            "uid": f"uid-{name}-{stage}",
            "labels": labels,
            "creationTimestamp": ago(begin),
        },
        "spec": {"nodeName": node, "containers": [{"name": "trainer", "resources": limits}]},
        "status": {"startTime": ago(begin), **status},
    }


OUT_OF_MEMORY = (
    "Training needs more GPU memory than the 22.0 GiB of the GPU, even at micro-batch size 1: "
    "lower training.sequenceLength (it is 4096) to at most 2816, or use a larger GPU"
)
NO_GPU = (
    "Pod billing-train-x7k2p cannot be scheduled: 0/1 nodes are available: 1 Insufficient "
    "nvidia.com/gpu. Free a GPU, or wait until another job ends."
)
TERMINATED = {"terminated": {"exitCode": 80, "reason": "Error", "message": "{}"}}
FAILED_POD = {
    "phase": "Failed",
    "containerStatuses": [{"name": "trainer", "state": TERMINATED, "restartCount": 0}],
}

SUPPORT = _job(
    "support",
    "cc7b0c35",
    [
        _condition("Ready", "False", "CUDAOutOfMemory", OUT_OF_MEMORY, 12),
        _condition("Stalled", "True", "CUDAOutOfMemory", OUT_OF_MEMORY, 12),
        _condition("Finished", "True", "CUDAOutOfMemory", OUT_OF_MEMORY, 12),
    ],
    warnings=["dataset.maxSamples leaves out 12 of 1,212 rows."],
    revisions=[
        {
            "revision": "cc7b0c35",
            "stages": [
                _attempt("prepare", "Completed"),
                _attempt(
                    "train",
                    "Failed",
                    reason="CUDAOutOfMemory",
                    message=OUT_OF_MEMORY,
                    disruptions=1,
                ),
            ],
        }
    ],
)
_EARLIER_SPEC = resolve(
    {
        "model": {"source": "hf://org/base-8b"},
        "dataset": {"source": "hf://org/velmora-rows"},
        "training": {"epochs": 2, "learningRate": 0.0008},
    },
    builtin_defaults(),
)
EARLIER = _EARLIER_SPEC.revision
"""An earlier revision of the job velmora."""
_JOB_FILE = JobConfig(
    namespace=NAMESPACE,
    name="velmora",
    revision=EARLIER,
    digest=_EARLIER_SPEC.digest,
    model=_EARLIER_SPEC.spec.model,
    dataset=_EARLIER_SPEC.spec.common_dataset,
    training=_EARLIER_SPEC.spec.training,
).model_dump_json()
VELMORA = _job(
    "velmora",
    "88d82457",
    [
        _condition("Ready", "True", "Serving", "The endpoint answers requests.", 95),
        _condition("Finished", "True", "Serving", "The endpoint answers requests.", 95),
        _condition("Serving", "True", "Available", "The endpoint answers requests.", 95),
    ],
    endpoint=f"http://velmora-serve.{NAMESPACE}.svc:8000/v1",
    serving={"summary": "88d82457", "model": "velmora"},
    revisions=[
        {
            "revision": EARLIER,
            "frozen": {
                "digest": _EARLIER_SPEC.digest,
                "jobDigest": text_digest(_JOB_FILE),
                "operator": "{}",
            },
            "stages": [_attempt("prepare", "Completed"), _attempt("train", "Completed")],
        },
        {
            "revision": "88d82457",
            "stages": [
                _attempt("prepare", "Completed"),
                _attempt("train", "Completed"),
                _attempt("merge", "Completed"),
                _attempt("serve", "Completed"),
            ],
        },
    ],
)
BILLING = _job(
    "billing",
    "0f41aa9e",
    [
        _condition("Ready", "False", "Unschedulable", NO_GPU, 8),
        _condition("Finished", "False", "Unschedulable", NO_GPU, 8),
    ],
    progress="train",
    revisions=[
        {
            "revision": "0f41aa9e",
            "stages": [_attempt("prepare", "Completed"), _attempt("train", "Starting")],
        }
    ],
)
PROFILE = {
    "metadata": {
        "name": "small",
        "annotations": {"finetune.dev/is-default-profile": "true"},
    },
    "spec": {
        "description": "models up to 8B",
        "card": "NVIDIA-A10G",
        "price": {"perGpuHour": "1.20", "currency": "EUR"},
    },
}
PODS = [
    _pod("velmora", "serve", NODE, 100, phase="Running"),
    _pod("billing", "train", None, 8, phase="Pending"),
    _pod("support", "train", NODE, 19, **FAILED_POD),
]
BACK_OFF = {
    "metadata": {"name": "support.1", "creationTimestamp": ago(12)},
    "type": "Warning",
    "reason": "CUDAOutOfMemory",
    "message": OUT_OF_MEMORY,
    "involvedObject": {"uid": "uid-support"},
}
COLLECTIONS: Mapping[str, list[Object]] = {
    JOBS: [BILLING, SUPPORT, VELMORA],
    PROFILES: [PROFILE],
    BATCH: [
        _stage_job("support", "cc7b0c35", "prepare", 22, 19),
        _stage_job("support", "cc7b0c35", "train", 19, 12),
        _stage_job("velmora", "88d82457", "prepare", 140, 137),
        _stage_job("velmora", "88d82457", "train", 137, 101),
        _stage_job("velmora", "88d82457", "merge", 101, 97),
        _stage_job("billing", "0f41aa9e", "prepare", 11, 8),
        _stage_job("billing", "0f41aa9e", "train", 8, None),
    ],
    "/api/v1/pods": PODS,
    f"{CORE}/pods": PODS,
    f"{CORE}/events": [BACK_OFF],
    f"{CORE}/configmaps": [
        {"metadata": {"name": f"velmora-{EARLIER}"}, "data": {"job.json": _JOB_FILE}}
    ],
    f"{CORE}/persistentvolumeclaims": [{"metadata": {"name": f"velmora-{EARLIER}"}}],
}
