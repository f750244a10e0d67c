"""The GPU products on which the pods of a job may run."""

from collections.abc import Sequence

from finetune_api.defaulting import Resolved
from finetune_api.v1alpha1.placement import Placement
from finetune_operator.config import GpuConfig
from finetune_operator.manifests.gpu.node_labels import products_of


def listed(gpu_nodes: GpuConfig, resolved: Resolved, placement: Placement) -> Sequence[str]:
    """Return the products of the chart value ``gpu.products`` that apply to pods with a GPU.

    They do not apply if the job or the chart's defaults set a node selector in their placement, nor
    with a queue: the ResourceFlavors of the queue then select the nodes.
    """
    return () if placement.node_selector or resolved.spec.queue_name else gpu_nodes.products


def cards(gpu_nodes: GpuConfig, resolved: Resolved) -> list[str]:
    """Return the products of the cards on which the train pod may run; empty if unknown."""
    placement = resolved.spec.placement
    if placement.node_selector:
        return products_of(placement.node_selector)
    return list(listed(gpu_nodes, resolved, placement))
