"""The FineTuneJobs of the examples: one job serves, one has failed, and one waits for the GPU."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.defaulting import Resolved, builtin_defaults, resolve
from finetune_api.revision_hash import text_digest

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
NAMESPACE = "team-a"
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
            "summary": conditions[0]["message"],
            **status,
        },
    }


def _attempt(stage: str, outcome: str, **more: Any) -> Object:
    build = {"build": "5e8a1f00"} if stage in ("merge", "serve") else {}
    return {"stage": stage, "attempt": 1, "outcome": outcome, **build, **more}


def _resolved(**training: Any) -> Resolved:
    return resolve(
        {
            "model": {"source": "hf://org/base-8b"},
            "dataset": {"source": "hf://org/velmora-rows"},
            "training": training,
        },
        builtin_defaults(),
    )


def _job_file(revision: str, resolved: Resolved) -> str:
    """Return the job.json of a revision of the job velmora."""
    return JobConfig(
        namespace=NAMESPACE,
        name="velmora",
        revision=revision,
        digest=resolved.digest,
        model=resolved.spec.model,
        dataset=resolved.spec.common_dataset,
        training=resolved.spec.training,
    ).model_dump_json()


def _frozen(revision: str, digest: str, **settings: Any) -> Object:
    file = text_digest(FILES[revision])
    return {"digest": digest, "jobDigest": file, "operator": json.dumps(settings)}


def _artifacts(steps: int, last: float, loss: str, difference: str) -> Object:
    """Return the results of a training."""
    build = {"loss": loss, "difference": difference, "standardError": "0.031"}
    return {
        "device": "NVIDIA-A10G",
        "lossHistory": _losses(steps, last),
        "evaluation": {
            "rows": 120,
            "tokens": 9300,
            "baseLoss": "2.4103",
            "rowsDigest": "sha256:5b1f",
            "dequantized": build,
            "original": build,
        },
    }


def _losses(steps: int, last: float) -> Object:
    """Return the loss history of a training, as the ledger has it."""
    shown = range(1, steps + 1, steps // 50)
    held_out = range(steps // 3, steps + 1, steps // 3)

    def fall(step: int) -> float:
        return last + 1.6 * math.exp(-5 * step / steps)

    return {
        "loss": [[at, round(fall(at) + 0.06 * math.sin(at * 1.7), 3)] for at in shown],
        "evalLoss": [[at, round(fall(at) + 0.1, 3)] for at in held_out],
        "learningRate": [[1, 2e-05], [steps // 10, 2e-04], [steps, 0.0]],
        "tokensPerSecond": [[2, 3120.0], [steps, 3140.0]],
    }


OUT_OF_MEMORY = (
    "Training needs more GPU memory than the 22.0 GiB of the GPU, even at micro-batch size 1: "
    "lower training.sequenceLength (it is 4096) to at most 2816, or use a larger GPU"
)
NO_GPU = (
    "Pod billing-train-x7k2p cannot be scheduled: 0/1 nodes are available: 1 Insufficient "
    "nvidia.com/gpu. Free a GPU, or wait until another job ends."
)
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
_EARLIER_SPEC = _resolved(epochs=2, learningRate=0.0008)
EARLIER = _EARLIER_SPEC.revision
"""An earlier revision of the job velmora."""
PRESENT = "88d82457"
FILES = {
    EARLIER: _job_file(EARLIER, _EARLIER_SPEC),
    PRESENT: _job_file(PRESENT, _resolved(epochs=3, learningRate=0.0002)),
}
PRICE = {"perGpuHour": "1.20", "currency": "EUR"}
VELMORA = _job(
    "velmora",
    "88d82457",
    [
        _condition("Ready", "True", "Serving", "The endpoint answers requests.", 95),
        _condition("Finished", "True", "Serving", "The endpoint answers requests.", 95),
        _condition("Serving", "True", "Available", "The endpoint answers requests.", 95),
    ],
    endpoint=f"http://velmora-serve.{NAMESPACE}.svc:8000/v1",
    serving={"summary": PRESENT, "revision": PRESENT, "build": "5e8a1f00", "model": "velmora"},
    verification={
        "build": "5e8a1f00",
        "outcome": "Verified",
        "distance": "0.012",
        "tolerance": "0.034",
    },
    cost={
        "currency": "EUR",
        "gpuHours": "0.68",
        "expectedCost": {"low": "0.41", "high": "1.94"},
    },
    revisions=[
        {
            "revision": EARLIER,
            "frozen": _frozen(EARLIER, _EARLIER_SPEC.digest),
            "stages": [_attempt("prepare", "Completed"), _attempt("train", "Completed")],
            "artifacts": _artifacts(300, 2.05, "2.1518", "-0.2585"),
            "gpuSeconds": 1490,
        },
        {
            "revision": PRESENT,
            "frozen": _frozen(PRESENT, f"{PRESENT}{'0' * 56}", profile={"price": PRICE}),
            "stages": [
                _attempt("prepare", "Completed"),
                _attempt("train", "Completed"),
                _attempt("merge", "Completed"),
                _attempt("serve", "Completed"),
            ],
            "artifacts": _artifacts(450, 1.82, "1.9294", "-0.4809"),
            "gpuSeconds": 2160,
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
