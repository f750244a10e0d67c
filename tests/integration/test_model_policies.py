"""The example of an admission policy for published models, on an API server with image volumes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration import policy
from tests.support.api_server.controlplane import ControlPlane, Servers, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "policies" / "verified-models.yaml"
CONFIG_MAP = "/api/v1/namespaces/model-policy/configmaps/verified-models"
DIGEST, OTHER = "1" * 64, "2" * 64
REPOSITORY = "registry.example.com/models/support"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Kubernetes enables image volumes by default since version 1.35."""
    servers = Servers.prepare(tmp_path_factory.mktemp("image-volumes"))
    with servers.running("--feature-gates=ImageVolume=true") as found:
        yield found


@pytest.fixture(scope="module")
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A namespace in which the policy applies, with one verified model."""
    created, config_map, *policies = yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))
    plane.namespace(created["metadata"]["name"])
    plane.post(CONFIG_MAP.rpartition("/")[0], config_map)
    label = policies[1]["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
    for name, labels in (("models", label), ("others", {})):
        plane.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    with policy.enforced(plane, policies):
        yield "models"


def rejected(plane: ControlPlane, namespace: str, *references: str) -> str | None:
    """Create a pod with image volumes, without storing it; return the message of a rejection."""
    volumes: list[dict[str, Any]] = [
        {"name": f"model-{number}", "image": {"reference": reference}}
        for number, reference in enumerate(references)
    ]
    volumes.append({"name": "scratch", "emptyDir": {}})
    container = {"name": "server", "image": "registry.example.com/vllm"}
    pod = {"metadata": {"name": "tried"}, "spec": {"containers": [container], "volumes": volumes}}
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    return policy.attempt(plane, "POST", path, pod, "")


def test_only_verified_models_are_admitted(plane: ControlPlane, namespace: str) -> None:
    verified, other = f"{REPOSITORY}@sha256:{DIGEST}", f"{REPOSITORY}@sha256:{OTHER}"
    assert rejected(plane, namespace) is None, "a pod without a model is not concerned"
    message = rejected(plane, namespace, verified)
    assert message is not None
    assert f"the model {verified} was not verified with the key of the operator" in message
    plane.merge(CONFIG_MAP, {"data": {f"sha256-{DIGEST}": verified}})
    wait_until(
        "the policy reads the ConfigMap", lambda: rejected(plane, namespace, verified) is None
    )
    assert f"the model {other} was not verified" in str(rejected(plane, namespace, verified, other))
    assert rejected(plane, "others", other) is None


@pytest.mark.parametrize(
    "reference",
    [
        f"{REPOSITORY}:latest",
        REPOSITORY,
        f"{REPOSITORY}:{DIGEST}",
        f"{REPOSITORY}@sha256:{DIGEST}0",
        f"{REPOSITORY}@sha512:{DIGEST}",
    ],
)
def test_a_model_is_named_by_digest(plane: ControlPlane, namespace: str, reference: str) -> None:
    plane.merge(CONFIG_MAP, {"data": {f"sha256-{DIGEST}": "verified"}})
    message = rejected(plane, namespace, reference)
    assert message is not None
    assert f"name the image volume {reference} by its digest" in message


def test_nothing_is_admitted_without_the_list(plane: ControlPlane, namespace: str) -> None:
    kept = plane.get(CONFIG_MAP)
    plane.delete(CONFIG_MAP)
    reference = f"{REPOSITORY}@sha256:{DIGEST}"
    try:
        wait_until(
            "the policy notices that its ConfigMap is gone",
            lambda: "no params found" in str(rejected(plane, namespace, reference)),
        )
    finally:
        kept["metadata"] = {"name": "verified-models"}
        plane.post(CONFIG_MAP.rpartition("/")[0], kept)
