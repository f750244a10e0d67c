"""Node labels that name the GPU of a node, and their values for each GPU product. Pure.

A product is named by the value of ``nvidia.com/gpu.product``, which NVIDIA GPU Feature Discovery
sets. Clusters without GPU Feature Discovery have labels of their cloud, with other names. A name
that stands for cards with different amounts of memory is left out, because a pod could get a
smaller card than the product in the list: Karpenter calls A100 with 40 GB and with 80 GB ``a100``.

Sources: cloud.google.com/kubernetes-engine/docs/how-to/gpus; the page "Instance Types" of
karpenter.sh/docs/reference; docs.aws.amazon.com/eks/latest/userguide/create-node-pool.html.
"""

from collections.abc import Iterable, Mapping

PRODUCT = "nvidia.com/gpu.product"
GKE = "cloud.google.com/gke-accelerator"
KARPENTER = "karpenter.k8s.aws/instance-gpu-name"
EKS_AUTO_MODE = "eks.amazonaws.com/instance-gpu-name"
DRIVER = "nvidia.com/cuda.driver-version.major"
COMPUTE = ("nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor")
"""Labels of GPU Feature Discovery for the branch of the driver and for the compute capability."""
GKE_PARTITION = "cloud.google.com/gke-gpu-partition-size"
GKE_SHARING = "cloud.google.com/gke-gpu-sharing-strategy"
MIG, SHARED = "-MIG-", "-SHARED"
"""Parts that GPU Feature Discovery adds to the product of a MIG device and of a time-sliced GPU."""

_GKE_NAMES = {
    "Tesla-T4": ("nvidia-tesla-t4",),
    "NVIDIA-L4": ("nvidia-l4",),
    "NVIDIA-A100-SXM4-40GB": ("nvidia-tesla-a100",),
    "NVIDIA-A100-SXM4-80GB": ("nvidia-a100-80gb",),
    "NVIDIA-H100-80GB-HBM3": ("nvidia-h100-80gb", "nvidia-h100-mega-80gb"),
    "NVIDIA-H200": ("nvidia-h200-141gb",),
}
_AWS_NAMES = {
    "Tesla-T4": ("t4",),
    "NVIDIA-A10G": ("a10g",),
    "NVIDIA-L4": ("l4",),
    "NVIDIA-L40S": ("l40s",),
    "NVIDIA-H100-80GB-HBM3": ("h100",),
    "NVIDIA-H200": ("h200",),
}
CLOUD_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    GKE: _GKE_NAMES,
    KARPENTER: _AWS_NAMES,
    EKS_AUTO_MODE: _AWS_NAMES,
}
"""Values by label and product. The chart's files/gpu-node-labels.yaml is a copy for its notes."""


def values_of(products: Iterable[str]) -> dict[str, list[str]]:
    """Return the values that name one of the products, by label; without labels that name none."""
    products = list(products)
    values = {PRODUCT: products}
    for label, names in CLOUD_NAMES.items():
        values[label] = [name for product in products for name in names.get(product, ())]
    return {label: matches for label, matches in values.items() if matches}


def products_of(labels: Mapping[str, str]) -> list[str]:
    """Return the products that node labels name, without repetition."""
    products = [labels[PRODUCT]] if PRODUCT in labels else []
    partition, sharing = labels.get(GKE_PARTITION), labels.get(GKE_SHARING)
    part = (f"{MIG}{partition}" if partition else "") + (SHARED if sharing else "")
    for label, names in CLOUD_NAMES.items():
        products += [
            product + (part if label == GKE else "")
            for product, values in names.items()
            if labels.get(label) in values
        ]
    return list(dict.fromkeys(products))


def versions_of(labels: Mapping[str, str]) -> tuple[int | None, str | None]:
    """Return the driver branch and the compute capability that node labels name.

    A value that is not a number is None.
    """
    driver = labels.get(DRIVER, "")
    compute = [labels.get(label, "") for label in COMPUTE]
    return (
        int(driver) if driver.isdecimal() else None,
        ".".join(compute) if all(map(str.isdecimal, compute)) else None,
    )


def is_product(product: str, card: str | None) -> bool:
    """Report whether CUDA names the card of a product so; it does not know of time-slicing."""
    return product.removesuffix(SHARED) == card
