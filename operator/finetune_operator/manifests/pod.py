"""The parts of a pod spec that all pods of a job share: security, placement, scratch space."""

from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.pod_security import pod_security
from finetune_api.contracts.ports import POD_UID_VARIABLE
from finetune_api.defaulting import Resolved
from finetune_api.v1alpha1.references import SecretKeyRef
from finetune_api.v1alpha1.resources import ResourceRequirements
from finetune_operator.config import GpuConfig, Settings
from finetune_operator.manifests import placement
from finetune_operator.manifests.gpu import devices

SCRATCH = "/tmp"  # noqa: S108 (a volume of this pod)
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

UID = {"name": POD_UID_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
"""``env`` entry of the containers that publish metrics."""


def environment(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the ``env`` of a container, sorted by name."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def resources(requirements: ResourceRequirements, *, gpu: GpuConfig | None) -> dict[str, Any]:
    """Return the ``resources`` of a container, with one GPU if ``gpu`` is set."""
    limits = dict(requirements.limits or {})
    if gpu is not None:
        limits |= devices.limits(gpu)
    both = {"requests": dict(requirements.requests or {}), "limits": limits}
    return {kind: amounts for kind, amounts in both.items() if amounts}


def scratch() -> dict[str, Any]:
    """Return the volume for temporary files."""
    return {"name": "scratch", "emptyDir": {"sizeLimit": SCRATCH_LIMIT}}


def secret(name: str, reference: SecretKeyRef | None) -> list[dict[str, Any]]:
    """Return the ``env`` entry that reads a key of a Secret; empty without a reference."""
    if reference is None:
        return []
    key = {"name": reference.name, "key": reference.key}
    return [{"name": name, "valueFrom": {"secretKeyRef": key}}]


def spec(
    config: Settings,
    resolved: Resolved,
    *,
    gpu: bool,
    serving: bool = False,
    card: str | None = None,
) -> dict[str, Any]:
    """Return the parts of a pod ``spec`` that do not depend on its containers.

    gpu, serving, card: as in ``placement.render``.
    """
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        **placement.render(config.gpu, resolved, gpu=gpu, serving=serving, card=card),
    }
    if config.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    if resolved.spec.priority_class_name:
        pod["priorityClassName"] = resolved.spec.priority_class_name
    return pod
