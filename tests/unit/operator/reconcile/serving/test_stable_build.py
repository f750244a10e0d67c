"""The build that serves while an edit trains or rolls out the next one."""

from tests.fakes import controllers
from tests.unit.operator.reconcile.serving.test_gpu_handover import RETRAIN, serving
from tests.unit.operator.reconcile.serving.test_rollout_failures import loading

from finetune_operator.types import Scale


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
