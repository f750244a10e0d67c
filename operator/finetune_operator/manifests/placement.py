"""Placement of a job's pods: node selector, node affinity and tolerations.

All pods of a job share a volume, which may be bound to a node or a zone. Pods with a GPU require
nodes with a suitable card. Pods without a GPU only prefer these nodes, so that the volume is bound
where the pods with a GPU can run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_api.defaulting import Resolved
from finetune_api.layering import has
from finetune_api.v1alpha1.placement import Placement, Toleration
from finetune_operator.config import GpuConfig
from finetune_operator.manifests.gpu import products
from finetune_operator.manifests.gpu.node_labels import PRODUCT, is_product, values_of

ZONE = "topology.kubernetes.io/zone"

Expression = dict[str, Any]


def render(
    gpu_nodes: GpuConfig,
    resolved: Resolved,
    *,
    gpu: bool,
    serving: bool = False,
    card: str | None = None,
) -> dict[str, Any]:
    """Return the parts of a pod ``spec`` that decide on which nodes the pod may run.

    gpu_nodes: the chart value ``gpu``; gpu: whether the pod has a GPU; serving: whether it is a
    serving pod, to which ``spec.serving.placement`` applies; card: the product that the pod must
    have if the chart lists it.
    """
    placement = _placement_of(resolved, serving=serving)
    selector, listed = placement.node_selector, products.listed(gpu_nodes, resolved, placement)
    kept = [product for product in listed if is_product(product, card)]
    node_selector: dict[str, str] = {}
    required: list[Expression] = []
    preferred: list[tuple[int, list[Expression]]] = []
    if selector and gpu:
        node_selector = dict(selector)
    elif selector:
        preferred = [(100, [_in(label, [value]) for label, value in sorted(selector.items())])]
    elif not gpu:
        preferred = [*_weighted(100, listed[:1]), *_weighted(50, listed[1:])]
    elif kept:
        required = _terms(kept)
    elif len(listed) == 1:
        node_selector = {PRODUCT: listed[0]}
    else:
        required, preferred = _terms(listed), _weighted(100, listed[:1])
    return {
        **({"nodeSelector": node_selector} if node_selector else {}),
        **_affinity(required, preferred, placement.zones),
        **_tolerations([*gpu_nodes.tolerations, *(placement.tolerations or ())]),
    }


def origin(
    gpu_nodes: GpuConfig,
    resolved: Resolved,
    written: Mapping[str, Any],
    *,
    gpu: bool,
    serving: bool = False,
    card: str | None = None,
) -> str:
    """Return the field, chart value or fact that requires labels of a pod's node.

    written: the job's spec as the user wrote it; the other arguments are those of ``render``.
    """
    placement = _placement_of(resolved, serving=serving)
    listed = products.listed(gpu_nodes, resolved, placement)

    def field(name: str) -> str:
        if placement is resolved.spec.serving.placement:
            return f"spec.serving.placement.{name}"
        own = has(written, "placement", name)
        return f"{'spec' if own else 'the chart value defaults'}.placement.{name}"

    labels = [field("nodeSelector")] if placement.node_selector else []
    if not gpu:
        labels = []
    elif resolved.spec.queue_name and not serving:
        labels = ["the flavor of the Kueue queue", *labels]
    elif any(is_product(product, card) for product in listed):
        labels = ["the first checkpoint (status.revisions[].card)"]
    elif listed:
        product_list = "the chart value gpu.products"
        profile = resolved.spec.profile
        labels = [
            product_list if profile is None else f"the card of profile {profile} or {product_list}"
        ]
    zones = [field("zones")] if placement.zones else []
    return " or ".join([*labels, *zones]) or "the pod"


def _placement_of(resolved: Resolved, *, serving: bool) -> Placement:
    own = resolved.spec.serving.placement if serving else None
    return resolved.spec.placement if own is None else own


def _terms(names: Iterable[str]) -> list[Expression]:
    """Return one expression for each label; a node has one of the products if one of them holds."""
    return [_in(label, values) for label, values in values_of(names).items()]


def _weighted(weight: int, names: Sequence[str]) -> list[tuple[int, list[Expression]]]:
    return [(weight, [term]) for term in _terms(names)]


def _in(label: str, values: Sequence[str]) -> Expression:
    return {"key": label, "operator": "In", "values": list(values)}


def _affinity(
    required: Sequence[Expression],
    preferred: Sequence[tuple[int, list[Expression]]],
    zones: Sequence[str] | None,
) -> dict[str, Any]:
    """Return the node affinity: one of the required expressions and one of the zones."""
    zone = [_in(ZONE, zones)] if zones else []
    terms = [[expression, *zone] for expression in required] or ([zone] if zone else [])
    affinity: dict[str, Any] = {}
    if terms:
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [{"matchExpressions": term} for term in terms]
        }
    if preferred:
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": weight, "preference": {"matchExpressions": expressions}}
            for weight, expressions in preferred
        ]
    return {"affinity": {"nodeAffinity": affinity}} if affinity else {}


def _tolerations(tolerations: Iterable[Toleration]) -> dict[str, Any]:
    unique: list[dict[str, Any]] = []
    for toleration in tolerations:
        dumped = toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
        if dumped not in unique:
            unique.append(dumped)
    return {"tolerations": unique} if unique else {}
