"""How vLLM is started on a build: its command line, environment, probes and mounts.

The model is mounted read-only, everything that vLLM writes goes to a scratch volume. A pod that is
asked to end first waits until no Service sends it requests any more, then finishes those it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.serving import BASE_SUFFIX
from finetune_operator.manifests import pod
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

CONTAINER = "vllm"
PORT = 8000
MODEL = "/model"
ADAPTER = "/adapter"
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes (vLLM 0.32.0, ``vllm/config/lora.py``)."""

PROBE_PERIOD = 5
STARTUP_PERIOD = 2
LEAVE_SECONDS = 5
"""Time for every node to hear that a pod takes no more requests."""

DRAIN_SECONDS = 30
"""Time for running requests to end. While vLLM still imports it hears no signal, so a pod that is
deleted then holds its GPU and its volume for all of ``GRACE_SECONDS``, less than a minute."""

GRACE_SECONDS = LEAVE_SECONDS + DRAIN_SECONDS + 10
STARTUP_SECONDS = 300
"""Imports, compilation and CUDA graphs, without the reading of weights."""

SLOWEST_BYTES_PER_SECOND = 25_000_000
"""A network disk on a bad day; reading the weights may take as long as at this pace."""

UNKNOWN_SIZE_SECONDS = 1800
PENDING_SECONDS = 600
"""Beyond loading, for what else a rollout takes: pulling the image, verifying what was loaded."""

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": f"{pod.SCRATCH}/vllm"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the earlier stages found out about a build's model."""

    dtype: str = "auto"
    """Number format of the merged weights; vLLM would otherwise guess."""
    base_bytes: int | None = None
    own_template: bool = False
    """Whether the rows were rendered through another chat template than the base's."""


def names(job: Object, target: TargetRevision) -> list[str]:
    """Return the names that requests call the model, the one that answers carry first."""
    return target.resolved.spec.serving.served_model_names or [job["metadata"]["name"]]


def startup_seconds(model: Model) -> int:
    """Return how long a pod may take from its start until it answers."""
    if model.base_bytes is None:
        return UNKNOWN_SIZE_SECONDS
    return STARTUP_SECONDS + model.base_bytes // SLOWEST_BYTES_PER_SECOND


def deadline_seconds(model: Model) -> int:
    """Return how long a rollout may go without progress; a pod's own start always fits in."""
    return startup_seconds(model) + PENDING_SECONDS


def container(job: Object, target: TargetRevision, model: Model) -> dict[str, Any]:
    """Return the container that answers requests."""
    config, spec = target.config, target.resolved.spec
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "name": CONTAINER,
        "image": config.images.serving,
        "imagePullPolicy": config.image_pull_policy,
        "command": list(config.serving.command),
        "args": [
            *_model_arguments(job, target, model),
            *("--gpu-memory-utilization", str(spec.serving.gpu_memory_utilization)),
            *_context(spec.serving.max_model_len),
            *("--shutdown-timeout", str(DRAIN_SECONDS)),
            *("--host", "0.0.0.0", "--port", str(PORT)),
            *(spec.serving.extra_args or ()),
            *config.serving.args,
        ],
        "env": pod.environment(
            {**pod.WRITABLE_CACHES, **pod.OFFLINE, **QUIET, **config.serving.env}
        )
        + pod.secret("VLLM_API_KEY", spec.serving.api_key_secret_ref),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {
            **health,
            "periodSeconds": STARTUP_PERIOD,
            "failureThreshold": startup_seconds(model) // STARTUP_PERIOD,
        },
        "readinessProbe": {
            **health,
            "periodSeconds": PROBE_PERIOD,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            **health,
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}},
        "resources": pod.resources(spec.resources.serve, gpu=True),
        "securityContext": pod.container_security(read_only_root=False),
        "volumeMounts": [
            *_weights(target),
            {"name": "scratch", "mountPath": pod.SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _model_arguments(job: Object, target: TargetRevision, model: Model) -> list[str]:
    config, spec = target.config, target.resolved.spec
    called = names(job, target)
    if spec.serving.mode == "merged":
        return ["--served-model-name", *called, "--dtype", config.serving.dtype or model.dtype]
    template = ["--chat-template", f"{ADAPTER}/chat_template.jinja"] if model.own_template else []
    return [
        *("--served-model-name", job["metadata"]["name"] + BASE_SUFFIX),
        *("--dtype", config.serving.dtype or spec.serving.dtype),
        *("--enable-lora", "--max-lora-rank", str(lora_rank(spec.training.lora.r))),
        *("--lora-modules", f"{called[0]}={ADAPTER}"),
        *template,
    ]


def lora_rank(r: int) -> int:
    """Return the smallest rank that vLLM sets memory aside for and that holds rank ``r``."""
    return next(rank for rank in LORA_RANKS if rank >= r)


def _context(tokens: int | None) -> Sequence[str]:
    return () if tokens is None else ("--max-model-len", str(tokens))


def _weights(target: TargetRevision) -> list[dict[str, Any]]:
    if target.resolved.spec.serving.mode == "merged":
        folders = {MODEL: f"merged-{target.build}"}
    else:
        folders = {MODEL: "base", ADAPTER: "adapter"}
    return [
        {"name": "work", "mountPath": path, "subPath": folder, "readOnly": True}
        for path, folder in folders.items()
    ]
