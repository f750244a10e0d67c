"""Edits of a serving job, with the real controller manager and a fake kubelet."""

from typing import Any

import pytest
from tests.fakes.kubelet import mismatch
from tests.integration.test_operator_with_controllers import all_complete, run_stages
from tests.support.api_server.controlplane import wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

BUILD = "finetune.dev/build"


def edit(place: Namespace, **changes: Any) -> None:
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": changes})


def replicas(place: Namespace) -> dict[str, int]:
    """Return the desired replicas of each build's Deployment."""
    return {
        each["metadata"]["labels"][BUILD]: each["spec"]["replicas"]
        for each in place.items("deployments")
    }


def selected(place: Namespace) -> str:
    (service,) = place.items("services")
    return str(service["spec"]["selector"][BUILD])


def test_a_failed_verification_stops_the_build_and_an_edit_retries(
    operator: OperatorProcess, place: Namespace
) -> None:
    place.submit()
    run_stages(place, "Serving")
    old = selected(place)
    edit(place, merge={"dtype": "bfloat16"})
    numbers = "distance 0.31, tolerance 0.02"
    run_stages(
        place,
        "RolloutFailed",
        lambda stage: mismatch(numbers) if stage == "serve" else all_complete(stage),
    )
    new = place.job()["status"]["build"]
    wait_until("the candidate is stopped", lambda: replicas(place) == {old: 1, new: 0})
    ready, *_ = place.job()["status"]["conditions"]
    assert numbers in ready["message"]
    revision = place.job()["status"]["revision"]
    assert f"Build {old} of revision {revision} continues to serve" in ready["message"]
    assert selected(place) == old
    edit(place, serving={"maxModelLen": 2048})
    run_stages(place, "Serving")
    assert selected(place) == new
    assert operator.failures() == []


def test_network_policy_and_budget_follow_the_spec(
    operator: OperatorProcess, place: Namespace
) -> None:
    def callers() -> Any:
        policy = place.plane.get(place.path("networkpolicies", "demo-serve"))
        return policy["spec"]["ingress"][0]["from"]

    place.submit()
    run_stages(place, "Serving")
    assert callers() == [{"podSelector": {}}]
    edit(
        place,
        storage={"accessMode": "ReadWriteMany"},
        serving={"replicas": 2, "allowedNamespaces": ["web"]},
        rerun="a volume of its own",
    )
    named = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}
    wait_until(
        "the NetworkPolicy allows the callers", lambda: callers() == [{"podSelector": {}}, named]
    )
    run_stages(place, "Serving")
    wait_until(
        "both replicas are reported", lambda: place.job()["status"]["serving"]["replicas"] == 2
    )
    # The operator writes the status before the objects.
    wait_until("the PodDisruptionBudget exists", lambda: bool(place.items("poddisruptionbudgets")))
    build = place.job()["status"]["build"]
    (budget,) = place.items("poddisruptionbudgets")
    assert budget["spec"]["selector"]["matchLabels"][BUILD] == build
    wait_until("the Service selects the build", lambda: selected(place) == build)
    edit(place, serving={"replicas": 0})
    wait_until("serving is stopped", lambda: place.reason() == "ScaledToZero")
    wait_until(
        "the PodDisruptionBudget is deleted", lambda: not place.items("poddisruptionbudgets")
    )
    wait_until("no pod is wanted", lambda: replicas(place) == {selected(place): 0})
