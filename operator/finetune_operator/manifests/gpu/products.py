"""The GPU products on which the pods of a job may run."""

import itertools
from collections.abc import Mapping, Sequence

from finetune_api.defaulting import Resolved
from finetune_api.v1alpha1.placement import Placement
from finetune_operator.config import GpuConfig, Settings
from finetune_operator.manifests.gpu.node_labels import products_of


def listed(gpu_nodes: GpuConfig, resolved: Resolved, placement: Placement) -> Sequence[str]:
    """Return the products of the chart value ``gpu.products`` that apply to pods with a GPU.

    They do not apply if the job or the chart's defaults set a node selector in their placement, nor
    with a queue: the ResourceFlavors of the queue then select the nodes.
    """
    return () if placement.node_selector or resolved.spec.queue_name else gpu_nodes.products


def cards(
    config: Settings, resolved: Resolved, flavors: Sequence[Mapping[str, str]] = ()
) -> list[str]:
    """Return the products of the cards on which the train pod may run; empty if unknown.

    flavors: node labels of the ResourceFlavors of its queue. The card of a profile comes first: a
    queue may have flavors that the jobs of the profile do not use.
    """
    placement = resolved.spec.placement
    if placement.node_selector:
        return products_of(placement.node_selector)
    if resolved.spec.queue_name is None:
        return list(config.gpu.products)
    if config.profile is not None and config.profile.card is not None:
        return [config.profile.card]
    products = [products_of(labels) for labels in flavors]
    return list(dict.fromkeys(itertools.chain(*products))) if all(products) else []
