"""The parts of a pod spec that all pods of a job share: security, placement, scratch space."""

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
SCRATCH_LIMIT = "8Gi"
"""Compiled kernels and caches of libraries; the kubelet evicts a pod that writes more.

The pods have no ephemeral-storage request: Kueue admits a Job only if its queue covers each
requested resource, and usual queues do not cover this one.
"""

WRITABLE_CACHES = {
    "HOME": SCRATCH,
    "HF_HOME": f"{SCRATCH}/hf",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
    "XDG_CONFIG_HOME": f"{SCRATCH}/config",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# Without this, an image may see every GPU of its node although the pod requests none.
NO_GPU = {"NVIDIA_VISIBLE_DEVICES": "void"}
# If CUDA finds no GPU, Unsloth trains on the CPU; a pod that holds a GPU must fail instead.
ON_GPU = {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"}


def environment(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the ``env`` of a container, sorted by name."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def resources(requirements: ResourceRequirements, *, gpu: bool) -> dict[str, Any]:
    """Return the ``resources`` of a container, with one GPU if ``gpu`` is set."""
    limits = dict(requirements.limits or {})
    if gpu:
        limits[GPU] = "1"
    both = {"requests": dict(requirements.requests or {}), "limits": limits}
    return {kind: amounts for kind, amounts in both.items() if amounts}


def scratch() -> dict[str, Any]:
    """Return the volume for temporary files."""
    return {"name": "scratch", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}}


def container_security(*, read_only_root: bool) -> dict[str, Any]:
    """Return the ``securityContext`` of a container for the restricted Pod Security Standard.

    The root filesystem of GPU containers stays writable: some NVIDIA container hooks write to /etc.
    """
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": read_only_root,
    }


def secret(name: str, reference: SecretKeyRef | None) -> list[dict[str, Any]]:
    """Return the ``env`` entry that reads a key of a Secret; empty without a reference."""
    if reference is None:
        return []
    key = {"name": reference.name, "key": reference.key}
    return [{"name": name, "valueFrom": {"secretKeyRef": key}}]


def spec(
    config: OperatorConfig, resolved: Resolved, *, gpu: bool, serving: bool = False
) -> dict[str, Any]:
    """Return the parts of a pod ``spec`` that do not depend on its containers.

    serving: whether it is a serving pod, to which ``spec.serving.placement`` applies.
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
    """Return node selector, affinity and tolerations.

    All pods of a job share a volume, which may be bound to a node or a zone. The node selector is
    required for GPU pods, and for all pods if the user set it. Otherwise CPU pods only prefer these
    nodes, so that the volume is bound where the GPU pods can run.
    """
    placement = resolved.spec.placement
    if serving and resolved.spec.serving.placement is not None:
        placement = resolved.spec.serving.placement
    selector = placement.node_selector or {}
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
    if placement.zones:
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": ZONE, "operator": "In", "values": placement.zones}]}
            ]
        }
    if affinity:
        parts["affinity"] = {"nodeAffinity": affinity}
    if placement.tolerations:
        parts["tolerations"] = [
            toleration.model_dump(mode="json", exclude_none=True)
            for toleration in placement.tolerations
        ]
    return parts
