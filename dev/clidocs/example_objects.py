"""The objects of the examples: a cluster with one GPU, and the jobs of ``example_jobs`` in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clidocs.example_jobs import (
    BILLING,
    EARLIER,
    FILES,
    NAMESPACE,
    OUT_OF_MEMORY,
    PRICE,
    SUPPORT,
    VELMORA,
    Object,
    ago,
)

NODE = "gpu-1"
JOBS = f"/apis/finetune.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs"
PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"
BUDGETS = "/apis/finetune.dev/v1alpha1/finetunebudgets"
USAGES = "/apis/finetune.dev/v1alpha1/finetuneusages"
BATCH = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
CORE = f"/api/v1/namespaces/{NAMESPACE}"


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


TERMINATED = {"terminated": {"exitCode": 80, "reason": "Error", "message": "{}"}}
FAILED_POD = {
    "phase": "Failed",
    "containerStatuses": [{"name": "trainer", "state": TERMINATED, "restartCount": 0}],
}

PROFILE = {
    "metadata": {
        "name": "small",
        "annotations": {"finetune.dev/is-default-profile": "true"},
    },
    "spec": {
        "description": "models up to 8B",
        "card": "NVIDIA-A10G",
        "price": PRICE,
    },
}
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
SERVING_POD = _pod("velmora", "serve", NODE, 100, **READY)
SERVING_POD["metadata"]["labels"]["finetune.dev/build"] = "5e8a1f00"
PODS = [
    SERVING_POD,
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
USAGE = {
    "metadata": {
        "name": f"{NAMESPACE}-2026-03",
        "labels": {"finetune.dev/namespace": NAMESPACE},
    },
    "spec": {"namespace": NAMESPACE, "month": "2026-03"},
    "status": {"training": "1.21", "serving": "1.66", "cost": "3.44 EUR"},
}
OPERATOR = {
    "metadata": {
        "name": "finetune-operator",
        "namespace": "finetune-system",
        "labels": {
            "app.kubernetes.io/name": "finetune-operator",
            "app.kubernetes.io/component": "operator",
            "app.kubernetes.io/version": "0.1.0",
        },
    },
    "status": {"readyReplicas": 2},
}
GPU_NODE = {
    "metadata": {
        "name": NODE,
        "labels": {
            "nvidia.com/gpu.product": "NVIDIA-A10G",
            "nvidia.com/cuda.driver-version.full": "580.95.05",
        },
    },
    "status": {
        "allocatable": {"nvidia.com/gpu": "1"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
STORAGE_CLASS = {
    "metadata": {
        "name": "standard",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
}
API_RESOURCES = (
    *("finetunejobs", "finetuneprofiles", "finetuneendpoints"),
    *("finetunebudgets", "finetuneusages"),
)
COLLECTIONS: Mapping[str, list[Object]] = {
    JOBS: [BILLING, SUPPORT, VELMORA],
    PROFILES: [PROFILE],
    BUDGETS: [],
    USAGES: [USAGE],
    "": [{"metadata": {"name": "version"}, "gitVersion": "v1.34.2", "major": "1", "minor": "34"}],
    "/apis/finetune.dev": [
        {
            "metadata": {"name": "v1alpha1"},
            "resources": [{"name": name} for name in API_RESOURCES],
        }
    ],
    "/apis/apps/v1/deployments": [OPERATOR],
    "/api/v1/nodes": [GPU_NODE],
    "/apis/storage.k8s.io/v1/storageclasses": [STORAGE_CLASS],
    f"{CORE}/resourcequotas": [],
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
        {"metadata": {"name": f"velmora-{revision}"}, "data": {"job.json": file}}
        for revision, file in FILES.items()
    ],
    f"{CORE}/persistentvolumeclaims": [{"metadata": {"name": f"velmora-{EARLIER}"}}],
}
