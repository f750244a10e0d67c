"""Placement of pods: node selector, affinity and tolerations, as the scheduler evaluates them."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.apiserver import SPEC, Thing
from tests.fakes.controllers import request_of
from tests.support.rendered import SETS, children, template

from finetune_api.defaulting import effective_defaults, resolve
from finetune_operator.config import GpuConfig
from finetune_operator.manifests import placement
from finetune_operator.manifests.gpu.node_labels import (
    CLOUD_NAMES,
    COMPUTE,
    DRIVER,
    EKS_AUTO_MODE,
    GKE,
    GKE_PARTITION,
    GKE_SHARING,
    KARPENTER,
    PRODUCT,
    products_of,
    values_of,
)
from finetune_trainer.devices import cards

ZONE = "topology.kubernetes.io/zone"
DEFAULT = GpuConfig()
PRODUCTS = sorted({product for names in CLOUD_NAMES.values() for product in names} | {"NVIDIA-A10"})
PODS = ("job-prepare", "job-train", "job-merge", "deployment")


def placed(
    spec: Mapping[str, Any] | None = None,
    *,
    gpu: bool = True,
    products: list[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    serving: bool = False,
    card: str | None = None,
) -> Thing:
    """Return the placement of a pod."""
    resolved = resolve({**SPEC, **(spec or {})}, effective_defaults(defaults or {}))
    nodes = DEFAULT if products is None else GpuConfig(products=products)
    return placement.render(nodes, resolved, gpu=gpu, serving=serving, card=card)


def holds(expressions: list[Thing], labels: Mapping[str, str]) -> bool:
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(each["key"]) in each["values"] for each in expressions)


def may_run(pod: Thing, labels: Mapping[str, str]) -> bool:
    """Report whether a pod may run on a node with these labels, as the scheduler decides it."""
    terms = (
        pod.get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", {})
        .get("nodeSelectorTerms")
    )
    fits = terms is None or any(holds(term["matchExpressions"], labels) for term in terms)
    return fits and pod.get("nodeSelector", {}).items() <= labels.items()


def score(pod: Thing, labels: Mapping[str, str]) -> int:
    """Return the sum of the weights of the preferences that a node meets."""
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    return sum(
        each["weight"]
        for each in affinity.get("preferredDuringSchedulingIgnoredDuringExecution", ())
        if holds(each["preference"]["matchExpressions"], labels)
    )


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        ({PRODUCT: "NVIDIA-A10G"}, True),
        ({PRODUCT: "NVIDIA-L4"}, True),
        ({PRODUCT: "NVIDIA-A10"}, True),
        ({GKE: "nvidia-l4"}, True),
        ({KARPENTER: "a10g"}, True),
        ({KARPENTER: "l4"}, True),
        ({EKS_AUTO_MODE: "a10g"}, True),
        ({PRODUCT: "NVIDIA-H100-80GB-HBM3", KARPENTER: "h100"}, False),
        ({GKE: "nvidia-h100-80gb"}, False),
        ({PRODUCT: "Tesla-T4"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_gpu_pods_run_on_the_listed_cards_in_every_vocabulary(
    labels: dict[str, str], runs: bool
) -> None:
    assert may_run(placed(), labels) is runs
    assert may_run(placed(serving=True), labels) is runs
    assert may_run(placed(gpu=False), labels), "pods without a GPU only prefer nodes"


def test_the_first_card_is_preferred() -> None:
    a10g, l4 = ({PRODUCT: "NVIDIA-A10G"}, {KARPENTER: "a10g"}), ({PRODUCT: "NVIDIA-L4"},)
    for gpu in (True, False):
        pod = placed(gpu=gpu)
        assert min(score(pod, labels) for labels in a10g) > max(score(pod, each) for each in l4)
    assert score(placed(gpu=False), l4[0]) > score(placed(gpu=False), {}), "near the GPU nodes"


def test_a_single_card_is_a_node_selector() -> None:
    assert placed(products=["NVIDIA-A10G"]) == {
        "nodeSelector": {PRODUCT: "NVIDIA-A10G"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }


def test_without_cards_every_node_is_suitable() -> None:
    assert placed(products=[]).keys() == {"tolerations"}


@given(
    st.lists(st.sampled_from([*PRODUCTS, "NVIDIA-RTX-9000"]), min_size=2, unique=True),
    st.sampled_from([*CLOUD_NAMES, PRODUCT]),
    st.sampled_from(PRODUCTS),
    st.sampled_from([None, ["a"], ["a", "b"]]),
    st.sampled_from(["a", "c"]),
)
def test_a_node_suits_if_its_card_is_listed_and_its_zone_is_allowed(
    products: list[str], label: str, product: str, zones: list[str] | None, zone: str
) -> None:
    names = values_of([product]).get(label, [])
    for name in names:
        pod = placed({"placement": {"zones": zones}}, products=products)
        suits = product in products and zone in (zones or [zone])
        assert may_run(pod, {label: name, ZONE: zone}) is suits


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_labels_of_a_product_name_this_product_only(product: str) -> None:
    """Otherwise a pod could get a card with less memory than the listed one."""
    for label, names in values_of([product]).items():
        for name in names:
            assert products_of({label: name}) == [product]


def test_an_unknown_product_is_found_by_gpu_feature_discovery() -> None:
    assert values_of(["NVIDIA-RTX-9000"]) == {PRODUCT: ["NVIDIA-RTX-9000"]}
    assert products_of({PRODUCT: "NVIDIA-RTX-9000", "a": "b"}) == ["NVIDIA-RTX-9000"]


@pytest.mark.parametrize(
    ("labels", "product"),
    [
        ({PRODUCT: "NVIDIA-A10G-SHARED"}, "NVIDIA-A10G-SHARED"),
        ({GKE: "nvidia-l4", GKE_SHARING: "time-sharing"}, "NVIDIA-L4-SHARED"),
        (
            {GKE: "nvidia-a100-80gb", GKE_PARTITION: "1g.10gb"},
            "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
        ),
        (
            {GKE: "nvidia-a100-80gb", GKE_PARTITION: "1g.10gb", GKE_SHARING: "mps"},
            "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb-SHARED",
        ),
        ({KARPENTER: "a10g", GKE_PARTITION: "1g.10gb"}, "NVIDIA-A10G"),
    ],
)
def test_parts_of_cards_and_shared_cards_are_other_products(
    labels: dict[str, str], product: str
) -> None:
    assert products_of(labels) == [product]
    assert cards.find(product) is not None


def test_a_training_on_a_time_sliced_card_resumes_on_its_product() -> None:
    products = ["NVIDIA-A10G-SHARED", "NVIDIA-L4"]
    pod = placed(products=products, card="NVIDIA-A10G")
    assert may_run(pod, {PRODUCT: "NVIDIA-A10G-SHARED"})
    assert not may_run(pod, {PRODUCT: "NVIDIA-L4"})


POOL = {"placement": {"nodeSelector": {"pool": "x"}}}


@pytest.mark.parametrize(("spec", "defaults"), [(POOL, {}), ({}, POOL)], ids=["job", "chart"])
def test_a_node_selector_replaces_the_listed_cards(spec: Thing, defaults: Thing) -> None:
    pod = placed(spec, defaults=defaults)
    assert pod["nodeSelector"] == {"pool": "x"}
    assert "affinity" not in pod
    cpu = placed(spec, defaults=defaults, gpu=False)
    assert "nodeSelector" not in cpu
    assert may_run(cpu, {})
    assert score(cpu, {"pool": "x"}) > 0


def test_a_queue_selects_the_nodes_by_its_flavors() -> None:
    for gpu in (True, False):
        assert placed({"queueName": "team"}, gpu=gpu).keys() == {"tolerations"}
    own = placed({"queueName": "team", **POOL})
    assert own["nodeSelector"] == {"pool": "x"}


def test_a_resumed_training_requires_the_card_of_its_checkpoint() -> None:
    pod = placed(card="NVIDIA-L4")
    assert [may_run(pod, each) for each in ({GKE: "nvidia-l4"}, {PRODUCT: "NVIDIA-L4"})] == [
        True,
        True,
    ]
    assert not may_run(pod, {PRODUCT: "NVIDIA-A10G"})
    assert placed(card="NVIDIA-H100-80GB-HBM3") == placed(), "a card that is not listed is ignored"
    assert placed(POOL, card="NVIDIA-L4") == placed(POOL), "the job's own selector decides"


def test_tolerations_of_job_and_chart_are_added_up() -> None:
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    spot = {"key": "spot", "operator": "Exists"}
    pod = placed({"placement": {"tolerations": [spot, taint]}})
    assert pod["tolerations"] == [taint, spot]
    assert placed(gpu=False)["tolerations"] == [taint], "it may run next to the volume"


ZONES = {"placement": {"zones": ["a"]}}


@pytest.mark.parametrize(
    ("spec", "arguments", "origin"),
    [
        ({}, {}, "the chart value gpu.products"),
        ({}, {"card": "NVIDIA-A10"}, "the first checkpoint (status.revisions[].card)"),
        ({}, {"card": "NVIDIA-H200"}, "the chart value gpu.products"),
        (POOL, {}, "spec.placement.nodeSelector"),
        (POOL, {"card": "NVIDIA-A10"}, "spec.placement.nodeSelector"),
        ({"serving": POOL}, {"serving": True}, "spec.serving.placement.nodeSelector"),
        ({"serving": ZONES, **POOL}, {}, "spec.placement.nodeSelector"),
        (ZONES, {}, "the chart value gpu.products or spec.placement.zones"),
        ({"queueName": "team"}, {}, "the flavor of the Kueue queue"),
        (
            {"queueName": "team", **POOL},
            {},
            "the flavor of the Kueue queue or spec.placement.nodeSelector",
        ),
        (ZONES, {"gpu": False}, "spec.placement.zones"),
    ],
)
def test_required_labels_have_an_origin(spec: Thing, arguments: Any, origin: str) -> None:
    resolved = resolve({**SPEC, **spec}, effective_defaults({}))
    found = placement.origin(DEFAULT, resolved, spec, **{"gpu": True, **arguments})
    assert found == origin


def test_a_node_selector_of_the_chart_has_the_chart_as_its_origin() -> None:
    resolved = resolve(SPEC, effective_defaults(POOL))
    origin = placement.origin(DEFAULT, resolved, SPEC, gpu=True)
    assert origin == "the chart value defaults.placement.nodeSelector"


@pytest.mark.parametrize(
    ("spec", "cards"),
    [
        ({}, ["NVIDIA-A10G", "NVIDIA-L4", "NVIDIA-A10"]),
        ({"queueName": "team"}, []),
        (POOL, []),
        ({"placement": {"nodeSelector": {GKE: "nvidia-l4"}}}, ["NVIDIA-L4"]),
        ({"placement": {"nodeSelector": {PRODUCT: "NVIDIA-H200", "pool": "x"}}}, ["NVIDIA-H200"]),
    ],
    ids=str,
)
def test_prepare_estimates_for_every_card_that_the_train_pod_may_get(
    spec: Thing, cards: list[str]
) -> None:
    job = children({**SPEC, **spec}, SETS["minimal"][1])["job-prepare"]
    assert request_of(job).cards == tuple(cards)


@pytest.mark.parametrize(
    ("labels", "given"),
    [
        ({DRIVER: "570"}, (570, None)),
        ({DRIVER: "latest"}, (None, None)),
        ({COMPUTE[0]: "7", COMPUTE[1]: "0"}, (None, "7.0")),
        ({COMPUTE[0]: "7"}, (None, None)),
    ],
    ids=str,
)
def test_prepare_checks_the_versions_in_the_node_selector(
    labels: dict[str, str], given: tuple[int | None, str | None]
) -> None:
    spec = {**SPEC, "placement": {"nodeSelector": labels}}
    request = request_of(children(spec, SETS["minimal"][1])["job-prepare"])
    assert (request.driver, request.compute_capability) == given


def test_placement_of_a_job_that_sets_every_field() -> None:
    spec, config = SETS["maximal"]
    made, wanted = children(spec, config), spec["placement"]
    for title in PODS:
        pod = template(made[title])["spec"]
        gpu = title in ("job-train", "deployment")
        assert pod.get("nodeSelector") == (wanted["nodeSelector"] if gpu else None), title
        assert pod["tolerations"] == wanted["tolerations"], title
        for zone, runs in (("eu-west-1b", True), ("eu-west-1c", False)):
            assert may_run(pod, {**wanted["nodeSelector"], ZONE: zone}) is runs, title


def test_serving_placement_applies_only_to_serving_pods() -> None:
    made = children(*SETS["adapter"])
    assert template(made["deployment"])["spec"]["nodeSelector"] == {"pool": "serving"}
    assert "pool" not in template(made["job-train"])["spec"]["nodeSelector"]


def test_another_resource_name_and_simulated_gpus() -> None:
    spec, config = SETS["minimal"]
    gpu = GpuConfig(resource_name="nvidia.com/gpu.shared", required=False)
    made = children(spec, config.model_copy(update={"gpu": gpu}))
    for title in ("job-train", "deployment"):
        container = template(made[title])["spec"]["containers"][0]
        limits = container["resources"]["limits"]
        assert (limits["nvidia.com/gpu.shared"], limits.get("nvidia.com/gpu")) == ("1", None)
        assert "FINETUNE_REQUIRE_GPU" not in {each["name"] for each in container["env"]}
