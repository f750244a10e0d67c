"""Values of node labels, as the documentation of the clouds states them, for each GPU product."""

import pytest

from finetune_operator.manifests.gpu.node_labels import (
    is_product,
    products_of,
    values_of,
    versions_of,
)

GFD = "nvidia.com/gpu.product"
GKE = "cloud.google.com/gke-accelerator"
AWS = ("karpenter.k8s.aws/instance-gpu-name", "eks.amazonaws.com/instance-gpu-name")


@pytest.mark.parametrize(
    ("product", "gke", "aws"),
    [
        ("Tesla-T4", ["nvidia-tesla-t4"], ["t4"]),
        ("NVIDIA-L4", ["nvidia-l4"], ["l4"]),
        ("NVIDIA-A10G", [], ["a10g"]),
        ("NVIDIA-L40S", [], ["l40s"]),
        ("NVIDIA-A100-SXM4-40GB", ["nvidia-tesla-a100"], []),
        ("NVIDIA-A100-SXM4-80GB", ["nvidia-a100-80gb"], []),
        ("NVIDIA-H100-80GB-HBM3", ["nvidia-h100-80gb", "nvidia-h100-mega-80gb"], ["h100"]),
        ("NVIDIA-H200", ["nvidia-h200-141gb"], ["h200"]),
        ("Tesla-V100", [], []),
    ],
)
def test_labels_of_a_product_select_its_nodes_in_each_cloud(
    product: str, gke: list[str], aws: list[str]
) -> None:
    expected = {GFD: [product], **({GKE: gke} if gke else {})}
    expected |= {label: aws for label in AWS if aws}
    assert values_of([product]) == expected
    for label, values in expected.items():
        for value in values:
            assert products_of({label: value}) == [product]


def test_values_of_several_products_are_joined_and_products_are_not_repeated() -> None:
    assert values_of(["NVIDIA-L4", "NVIDIA-A10G"])[AWS[0]] == ["l4", "a10g"]
    assert values_of([]) == {}
    assert products_of({GFD: "NVIDIA-L4", GKE: "nvidia-l4", AWS[0]: "l4"}) == ["NVIDIA-L4"]
    assert products_of({GKE: "nvidia-other"}) == products_of({}) == []


@pytest.mark.parametrize(
    ("labels", "product"),
    [
        ({"gpu-partition-size": "1g.5gb"}, "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"),
        ({"gpu-sharing-strategy": "time-sharing"}, "NVIDIA-A100-SXM4-40GB-SHARED"),
        (
            {"gpu-partition-size": "1g.5gb", "gpu-sharing-strategy": "mps"},
            "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED",
        ),
    ],
)
def test_parts_of_a_card_are_named_as_by_gpu_feature_discovery(
    labels: dict[str, str], product: str
) -> None:
    gke = {f"cloud.google.com/gke-{key}": value for key, value in labels.items()}
    assert products_of({GKE: "nvidia-tesla-a100", **gke}) == [product]
    assert products_of({AWS[0]: "t4", **gke}) == ["Tesla-T4"]


@pytest.mark.parametrize(
    ("labels", "versions"),
    [
        ({}, (None, None)),
        ({"cuda.driver-version.major": "570"}, (570, None)),
        ({"cuda.driver-version.major": "unknown"}, (None, None)),
        ({"gpu.compute.major": "8", "gpu.compute.minor": "9"}, (None, "8.9")),
        ({"gpu.compute.major": "8"}, (None, None)),
        ({"gpu.compute.minor": "9"}, (None, None)),
    ],
)
def test_versions_in_labels(
    labels: dict[str, str], versions: tuple[int | None, str | None]
) -> None:
    assert versions_of({f"nvidia.com/{key}": value for key, value in labels.items()}) == versions


def test_cuda_does_not_know_of_time_slicing() -> None:
    assert is_product("NVIDIA-L4-SHARED", "NVIDIA-L4") is True
    assert is_product("NVIDIA-L4", "NVIDIA-L4") is True
    assert is_product("NVIDIA-L4", "NVIDIA-L4-SHARED") is False
    assert is_product("NVIDIA-L4", None) is False
