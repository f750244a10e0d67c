"""Whether nodes have GPUs that jobs can use, and labels by which the operator finds them."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from finetune_api.policy.readable_settings import FILE, NAME, NAMESPACE, ReadableSettings
from finetune_cli.cluster import api, pods
from finetune_cli.cluster.api import Cluster, Forbidden, NotFound
from finetune_cli.cluster.health.finding import Finding

PRODUCTS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
)
"""Labels of a node that name its GPU: of GPU Feature Discovery, and of clouds."""
DRIVERS = ("nvidia.com/cuda.driver-version.full", "nvidia.com/cuda.driver-version.major")
OLDEST_DRIVER = 580
"""Oldest branch of the driver that the trainer image supports."""
DEFAULT = "nvidia.com/gpu"
"""Resource that pods of jobs request if the chart names no other."""


def findings(cluster: Cluster) -> Iterator[Finding]:
    """Yield a finding per node with GPUs. Raises CommandFailed."""
    nodes = cluster.items(api.path("nodes"))
    requested = _requested(cluster)
    with_gpus = [(node, gpus) for node in nodes if (gpus := _gpus(node, requested))]
    usable = [(node, gpus) for node, gpus in with_gpus if requested in (None, *gpus)]
    if not with_gpus:
        yield Finding(
            about="GPUs",
            state="warning",
            found=f"none of {len(nodes)} nodes has {requested or 'a GPU'}",
            remedy="If a pool of GPU nodes scales from zero, the first job starts a node. "
            "Otherwise install the NVIDIA GPU Operator, or the driver and the device plugin. If a "
            "node has a GPU, read the log of the device plugin's pod on it.",
        )
    elif not usable:
        others = sorted({name for _, gpus in with_gpus for name in gpus})
        yield Finding(
            about="GPUs",
            state="failed",
            found=f"pods of jobs request {requested}, but the nodes have {', '.join(others)}",
            remedy="Set the chart value gpu.resourceName to a resource of the nodes.",
        )
    for node, gpus in usable:
        yield _of_node(node, gpus)


def limited(names: Mapping[str, Any]) -> list[str]:
    """Return the keys of a ResourceQuota that limit GPUs."""
    return [key for key in names if key.removeprefix("requests.").startswith(pods.GPU_RESOURCES)]


def _requested(cluster: Cluster) -> str | None:
    """Return the resource that pods of jobs request, None if the settings cannot be read."""
    try:
        configmap = cluster.get(api.path("configmaps", NAMESPACE, NAME))
        values = yaml.safe_load(str((configmap.get("data") or {}).get(FILE)))
        return ReadableSettings.model_validate(values).gpu_resource
    except (Forbidden, NotFound, yaml.YAMLError, ValidationError):
        return None


def _of_node(node: Mapping[str, Any], gpus: Mapping[str, int]) -> Finding:
    name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
    product = next((labels[label] for label in PRODUCTS if label in labels), None)
    driver = next((str(labels[label]) for label in DRIVERS if label in labels), None)
    counts = ", ".join(
        f"{count} x {product or 'a GPU without a name'}"
        + ("" if resource == DEFAULT else f" ({resource})")
        for resource, count in gpus.items()
    )
    text = f"{name}: {counts}"
    text += f", driver {driver}" if driver else ""
    if driver is not None and _branch(driver) < OLDEST_DRIVER:
        remedy = f"Install driver R{OLDEST_DRIVER} or newer: train pods fail with an older one."
        return Finding(about="GPUs", state="failed", found=text, remedy=remedy)
    if not _is_ready(node):
        remedy = f"Read its conditions: kubectl describe node {name}"
        text += ", not ready"
    elif product is None:
        remedy = (
            f"Install GPU Feature Discovery, which sets the label {PRODUCTS[0]}, or set it "
            "yourself: the operator finds nodes by their GPU."
        )
    else:
        return Finding(about="GPUs", state="ok", found=text)
    return Finding(about="GPUs", state="warning", found=text, remedy=remedy)


def _branch(driver: str) -> int:
    branch = driver.partition(".")[0]
    return int(branch) if branch.isdecimal() else OLDEST_DRIVER


def _gpus(node: Mapping[str, Any], requested: str | None) -> dict[str, int]:
    """Return the number of devices of each resource of a device plugin for GPUs.

    requested: the resource that pods of jobs request, which may have any name.
    """
    amounts = ((node.get("status") or {}).get("allocatable") or {}).items()
    return {
        name: int(amount)
        for name, amount in amounts
        if name == requested or name.startswith(pods.GPU_RESOURCES)
        if str(amount).isdecimal() and int(amount)
    }


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = (condition["status"] for condition in conditions if condition["type"] == "Ready")
    return next(ready, "True") == "True" and not (node.get("spec") or {}).get("unschedulable")
