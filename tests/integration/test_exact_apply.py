"""The objects that the operator applies, as the API server stores them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace

from finetune_operator.controller.exact_apply import apply_exactly
from finetune_operator.kube.client import Kube
from finetune_operator.objects.contents import surplus

GOLDEN = Path(__file__).parents[1] / "unit" / "operator" / "manifests" / "golden"
KINDS = {
    "Deployment": "deployments",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Service": "services",
}
OBJECTS: dict[str, dict[str, Any]] = {
    path.stem: body
    for path in sorted(GOLDEN.glob("*.yaml"))
    if (body := yaml.safe_load(path.read_text())).get("kind") in KINDS
}


@pytest.mark.parametrize("body", OBJECTS.values(), ids=OBJECTS)
def test_defaults_of_the_api_server_are_no_drift(place: Namespace, body: dict[str, Any]) -> None:
    """Otherwise, each apply would be followed by a second write."""
    metadata = {key: body["metadata"][key] for key in ("name", "labels")}
    path = place.path(KINDS[body["kind"]])
    stored = place.plane.post(f"{path}?dryRun=All", {**body, "metadata": metadata})
    assert surplus(body, stored) == {}


async def test_a_value_that_makes_the_merged_object_invalid_is_removed(
    place: Namespace, control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server-side apply alone would add our port next to the other one, with the same name."""
    service = next(body for body in OBJECTS.values() if body["kind"] == "Service")
    metadata = {key: service["metadata"][key] for key in ("name", "labels")}
    body = {**service, "metadata": {**metadata, "namespace": place.name}}
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    kube = await Kube.connect()
    try:
        created = await kube.apply(body)
        (port,) = created["spec"]["ports"]
        path = place.path("services", metadata["name"])
        place.plane.merge(path, {"spec": {"ports": [{**port, "port": port["port"] + 1}]}})
        existing = await kube.get("Service", place.name, metadata["name"])
        written = await apply_exactly(kube, body, existing)
    finally:
        await kube.close()
    assert [each["port"] for each in written["spec"]["ports"]] == [port["port"]]


def test_every_kind_that_is_applied_has_a_case() -> None:
    assert {body["kind"] for body in OBJECTS.values()} == KINDS.keys()
