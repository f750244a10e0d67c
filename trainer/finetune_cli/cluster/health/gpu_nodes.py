"""Whether nodes have GPUs that jobs can use, and labels by which the operator finds them."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_cli.cluster import api
from finetune_cli.cluster.api import Cluster
from finetune_cli.cluster.health.finding import Finding

GPU = "nvidia.com/gpu"
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


def findings(cluster: Cluster) -> Iterator[Finding]:
    """Yield a finding per node with GPUs. Raises CommandFailed."""
    nodes = cluster.items(api.path("nodes"))
    with_gpus = [node for node in nodes if _count(node)]
    if not with_gpus:
        yield Finding(
            about="GPUs",
            state="failed",
            found=f"none of {len(nodes)} nodes has {GPU}",
            remedy="Install the NVIDIA GPU Operator, or the driver and the device plugin. If a "
            "node has a GPU, read the log of the device plugin's pod on it.",
        )
    for node in with_gpus:
        yield _of_node(node)


def _of_node(node: Mapping[str, Any]) -> Finding:
    name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
    product = next((labels[label] for label in PRODUCTS if label in labels), None)
    driver = next((str(labels[label]) for label in DRIVERS if label in labels), None)
    text = f"{name}: {_count(node)} x {product or 'a GPU without a name'}"
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


def _count(node: Mapping[str, Any]) -> int:
    amount = str(((node.get("status") or {}).get("allocatable") or {}).get(GPU, "0"))
    return int(amount) if amount.isdecimal() else 0


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = (condition["status"] for condition in conditions if condition["type"] == "Ready")
    return next(ready, "True") == "True" and not (node.get("spec") or {}).get("unschedulable")
