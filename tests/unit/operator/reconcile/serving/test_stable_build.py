"""The build that serves while an edit trains or rolls out the next one."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.serving_steps import RETRAIN, serving
from tests.unit.operator.reconcile.serving.test_rollout_failures import loading

from finetune_operator.actions import Apply, Scale


def test_first_build_that_becomes_ready_after_an_edit_has_served() -> None:
    cluster = loading()
    (build,) = cluster.builds
    cluster.edit(**RETRAIN)
    cluster.settle()
    controllers.serve(cluster)
    cluster.settle()
    outcomes = [
        attempt["outcome"]
        for revision in cluster.status["revisions"]
        for attempt in revision["stages"]
        if attempt.get("build") == build and attempt["stage"] == "serve"
    ]
    assert outcomes == ["Completed"]


def test_deployment_that_is_being_deleted_is_not_scaled() -> None:
    cluster = serving(2)
    cluster.edit(**RETRAIN, serving={"replicas": 0})
    scaled = [each for each in cluster.plan().actions if isinstance(each, Scale)]
    assert [each.replicas for each in scaled] == [0]
    deployment = cluster.get("Deployment", f"demo-{cluster.builds[0]}")
    assert deployment is not None
    deployment["metadata"]["deletionTimestamp"] = cluster.stamp()
    cluster.touch(deployment)
    assert not [each for each in cluster.plan().actions if isinstance(each, Scale)]


@pytest.mark.parametrize("part", ["another port", "another controller"])
def test_changed_service_of_the_stable_build_is_restored(part: str) -> None:
    """The build that is trained meanwhile does not apply the Service."""
    cluster = serving(1)
    cluster.edit(**RETRAIN)
    cluster.settle()
    service = cluster.get("Service", "demo-serve")
    assert service is not None
    assert not _services(cluster)
    if part == "another port":
        service["spec"]["ports"].append({"name": "other", "port": 9000})
    else:
        service["metadata"]["ownerReferences"][0]["controller"] = False
    cluster.touch(service)
    (restored,) = _services(cluster)
    assert [each["name"] for each in restored["spec"]["ports"]] == ["http"]
    assert restored["metadata"]["ownerReferences"][0]["controller"]


def _services(cluster: Cluster) -> list[Any]:
    actions = [each for each in cluster.plan().actions if isinstance(each, Apply)]
    return [each.object for each in actions if each.object["kind"] == "Service"]
