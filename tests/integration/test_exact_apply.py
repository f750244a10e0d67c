"""The objects that the operator applies, as the API server stores them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.namespace import Namespace

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
    if (body := yaml.safe_load(path.read_text()))["kind"] in KINDS
}


@pytest.mark.parametrize("body", OBJECTS.values(), ids=OBJECTS)
def test_defaults_of_the_api_server_are_no_drift(place: Namespace, body: dict[str, Any]) -> None:
    """Otherwise, each apply would be followed by a second write."""
    metadata = {key: body["metadata"][key] for key in ("name", "labels")}
    path = place.path(KINDS[body["kind"]])
    stored = place.plane.post(f"{path}?dryRun=All", {**body, "metadata": metadata})
    assert surplus(body, stored) == {}


def test_every_kind_that_is_applied_has_a_case() -> None:
    assert {body["kind"] for body in OBJECTS.values()} == KINDS.keys()
