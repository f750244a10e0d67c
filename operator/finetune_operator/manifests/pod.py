"""What all pods of a job have in common: identity, isolation, placement and scratch space."""

from collections.abc import Mapping
from typing import Any

from finetune_api.defaulting import Resolved
from finetune_api.v1alpha1.references import SecretKeyRef
from finetune_api.v1alpha1.resources import ResourceRequirements
from finetune_operator.config import OperatorConfig

USER = 1000
GPU = "nvidia.com/gpu"
ZONE = "topology.kubernetes.io/zone"
SCRATCH = "/tmp"

WRITABLE_CACHES = {
    "HOME": SCRATCH,
    "HF_HOME": f"{SCRATCH}/hf",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "XDG_CONFIG_HOME": f"{SCRATCH}/config",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# An image may see every GPU of a node without asking for one; a CPU stage must not.
NO_GPU = {"NVIDIA_VISIBLE_DEVICES": "void"}
# Unsloth trains on the CPU where CUDA finds no card; a pod that holds a GPU must not, unnoticed.
ON_GPU = {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"}


def environment(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a container's ``env``, in a stable order."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def resources(wanted: ResourceRequirements, *, gpu: bool) -> dict[str, Any]:
    """Return a container's ``resources``, with one GPU where the stage needs it."""
    limits = dict(wanted.limits or {})
    if gpu:
        limits[GPU] = "1"
    both = {"requests": dict(wanted.requests or {}), "limits": limits}
    return {kind: amounts for kind, amounts in both.items() if amounts}


def container_security(*, read_only_root: bool) -> dict[str, Any]:
    """Return a container's ``securityContext``, as the restricted Pod Security Standard asks.

    The root of GPU containers stays writable: some NVIDIA container hooks write below /etc.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }


def secret(name: str, reference: SecretKeyRef | None) -> list[dict[str, Any]]:
    """Return the ``env`` entry that takes a value from a Secret, none without a reference."""
    if reference is None:
        return []
    key = {"name": reference.name, "key": reference.key}
    return [{"name": name, "valueFrom": {"secretKeyRef": key}}]


def spec(
    config: OperatorConfig, resolved: Resolved, *, gpu: bool, serving: bool = False
) -> dict[str, Any]:
    """Return the parts of a pod's ``spec`` that do not depend on what its container does.

    serving: whether the pod answers requests; it may have a place of its own then.
    """
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **_placement(resolved, gpu=gpu, serving=serving),
    }
    if config.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    if resolved.spec.priority_class_name:
        pod["priorityClassName"] = resolved.spec.priority_class_name
    return pod


def _placement(resolved: Resolved, *, gpu: bool, serving: bool) -> dict[str, Any]:
    """All pods of a job share a volume, which may be bound to a node or a zone.

    GPU pods, and all pods where the user chose a place, are held to it. Otherwise the CPU pods
    prefer the nodes that the GPU pods need, so that the volume comes to be where they can run.
    """
    wanted = resolved.spec.placement
    if serving and resolved.spec.serving.placement is not None:
        wanted = resolved.spec.serving.placement
    selector = wanted.node_selector or {}
    parts: dict[str, Any] = {}
    affinity: dict[str, Any] = {}
    if selector and (gpu or resolved.placed_by_user):
        parts["nodeSelector"] = dict(selector)
    elif selector:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {
                "weight": 100,
                "preference": {
                    "matchExpressions": [
                        {"key": key, "operator": "In", "values": [value]}
                        for key, value in sorted(selector.items())
                    ]
                },
            }
        ]
    if wanted.zones:
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": ZONE, "operator": "In", "values": wanted.zones}]}
            ]
        }
    if affinity:
        parts["affinity"] = {"nodeAffinity": affinity}
    if wanted.tolerations:
        parts["tolerations"] = [
            toleration.model_dump(mode="json", exclude_none=True)
            for toleration in wanted.tolerations
        ]
    return parts
