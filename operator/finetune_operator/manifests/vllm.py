"""The vLLM container of a serving pod: command line, environment, probes and mounts.

The model is mounted read-only; vLLM writes only to a scratch volume. A terminating pod first waits
until it is removed from the endpoints of the Service, then completes its running requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.pod_security import container_security
from finetune_api.contracts.vllm_lora import reserved_rank
from finetune_api.v1alpha1.endpoints.names import base_name
from finetune_operator.manifests import pod
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

CONTAINER = "vllm"
PORT = 8000
MODEL = "/model"
ADAPTER = "/adapter"

PROBE_PERIOD = 5
STARTUP_PERIOD = 2
PRESTOP_SECONDS = 5
"""Time until every node has removed a terminating pod from the endpoints."""

DRAIN_SECONDS = 30
"""Time for running requests to complete. vLLM ignores signals during its imports, so a pod that is
deleted at that time holds its GPU and its volume for ``GRACE_SECONDS``, less than a minute."""

GRACE_SECONDS = PRESTOP_SECONDS + DRAIN_SECONDS + 10
STARTUP_SECONDS = 300
"""Imports, compilation and CUDA graph capture, without the time to read the weights."""

SLOWEST_BYTES_PER_SECOND = 25_000_000
"""Read rate of a slow network disk; the startup probe allows for it."""

UNKNOWN_SIZE_SECONDS = 1800
PENDING_SECONDS = 600
"""Time that a rollout needs in addition to loading: image pull and verification."""

QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CACHE_ROOT": f"{pod.SCRATCH}/vllm"}
"""The cache of compiled kernels is executable code. It stays in an emptyDir, although each pod then
compiles again: on the volume, other pods of the namespace could replace it, and no digest in the
ledger would vouch for it."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """Facts about a build's model that earlier stages reported."""

    dtype: str = "auto"
    """Number format of the merged weights; ``auto`` lets vLLM choose."""
    base_bytes: int | None = None
    custom_template: bool = False
    """Whether the rows were rendered with a chat template other than that of the base model."""
    adapted_modules: Sequence[str] = ()
    """Names of the modules that the adapter changes; empty if an earlier trainer image, which does
    not report them, made the adapter. Its pods keep their arguments."""


def names(job: Object, target: TargetRevision) -> list[str]:
    """Return the model names that the API accepts; responses carry the first one."""
    return target.resolved.spec.serving.served_model_names or [job["metadata"]["name"]]


def startup_seconds(model: ServedModel) -> int:
    """Return the time limit from container start to readiness, in seconds."""
    if model.base_bytes is None:
        return UNKNOWN_SIZE_SECONDS
    return STARTUP_SECONDS + model.base_bytes // SLOWEST_BYTES_PER_SECOND


def deadline_seconds(model: ServedModel) -> int:
    """Return the progress deadline of the Deployment in seconds, longer than the startup limit."""
    return startup_seconds(model) + PENDING_SECONDS


def container(job: Object, target: TargetRevision, model: ServedModel) -> dict[str, Any]:
    """Return the vLLM container."""
    config, spec = target.config, target.resolved.spec
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
            # The NetworkPolicy of the pod selects the callers.
            *("--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104
            *(spec.serving.extra_args or ()),
            *config.serving.args,
        ],
        "env": pod.environment(
            {**pod.WRITABLE_CACHES, **pod.OFFLINE, **QUIET, **config.serving.env}
        )
        + pod.secret("VLLM_API_KEY", spec.serving.api_key_secret_ref),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        **probes(path="/health", port="http", startup=startup_seconds(model)),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRESTOP_SECONDS}}},
        "resources": pod.resources(spec.resources.serve, gpu=config.gpu),
        "securityContext": container_security(read_only_root=False),
        "volumeMounts": [
            *_weights(target),
            {"name": "scratch", "mountPath": pod.SCRATCH},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 (a volume of this pod)
        ],
    }


def probes(*, path: str, port: str | int, startup: int) -> dict[str, Any]:
    """Return the probes of vLLM. startup: seconds that a start may take."""
    health = {"httpGet": {"path": path, "port": port}}
    return {
        "startupProbe": {
            **health,
            "periodSeconds": STARTUP_PERIOD,
            "failureThreshold": startup // STARTUP_PERIOD,
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
    }


def _model_arguments(job: Object, target: TargetRevision, model: ServedModel) -> list[str]:
    config, spec = target.config, target.resolved.spec
    served_names = names(job, target)
    if spec.serving.mode == "merged":
        return [
            "--served-model-name",
            *served_names,
            "--dtype",
            config.serving.dtype or model.dtype,
        ]
    template = (
        ["--chat-template", f"{ADAPTER}/chat_template.jinja"] if model.custom_template else []
    )
    return [
        *("--served-model-name", base_name(job["metadata"]["name"])),
        *("--dtype", config.serving.dtype or spec.serving.dtype),
        *("--enable-lora", "--max-lora-rank", str(reserved_rank(_trained_rank(target)))),
        *("--lora-modules", f"{served_names[0]}={ADAPTER}"),
        *_isolation(model.adapted_modules),
        *template,
    ]


def _isolation(adapted: Sequence[str]) -> Sequence[str]:
    """Return the arguments that keep an adapter out of requests for the base model.

    On a CPU, vLLM 0.32 applies the adapter in the last slot to tokens without an adapter that share
    a step with others, so the last of two slots stays empty. It also fails in a request for scores
    of a prompt that shares a step, unless adapters cannot change the output head.
    """
    return ("--max-loras", "2", "--lora-target-modules", *adapted) if adapted else ()


def _trained_rank(target: TargetRevision) -> int:
    """Return the rank of the adapter: the present spec may describe another revision."""
    # A revision that an earlier version started has no record of it.
    return target.frozen.lora_rank or target.resolved.spec.training.lora.r


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
