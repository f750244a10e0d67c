"""Deletion, and objects with the job's label that have another owner."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Refused, Thing, stored

from finetune_operator.types import LISTS, Create


def served() -> Cluster:
    cluster = Cluster()
    controllers.run_all(cluster)
    return cluster


def give_away(cluster: Cluster, kind: str) -> list[Thing]:
    """Give the children of a kind another owner, as after a quick delete and re-create."""
    found = list(cluster.each(kind))
    for child in found:
        child["metadata"]["ownerReferences"] = [{"uid": "other-owner", "controller": True}]
    return found


@pytest.mark.parametrize(
    "done", [(), ("prepare",), ("prepare", "train"), ("prepare", "train", "merge")]
)
def test_nothing_is_created_for_a_terminating_job(done: tuple[str, ...]) -> None:
    cluster = Cluster()
    for stage in done:
        controllers.run(cluster, stage)
    before = stored(cluster.status)
    cluster.delete_job()
    planned = cluster.plan()
    assert planned.actions == ()
    assert planned.events == ()
    assert stored(planned.status) == before
    for _ in range(4):
        cluster.settle()
        controllers.sync(cluster)
        if cluster.job is None:
            break
        for pod in cluster.list("Pod"):
            controllers.stop(cluster, cluster.objects["Pod", pod["metadata"]["name"]])
    assert cluster.objects == {}


def test_a_foreign_deployment_or_service_is_ignored() -> None:
    cluster = served()
    give_away(cluster, "Deployment")
    give_away(cluster, "Service")
    planned = cluster.plan()
    conditions = {each["type"]: each["status"] for each in planned.status["conditions"]}
    assert conditions["Ready"] == conditions["Serving"] == "False"
    with pytest.raises(Refused, match="has another owner"):
        cluster.reconcile()
    cluster.edit(serving={"enabled": False})
    assert cluster.plan().actions == ()


def test_a_foreign_frozen_configuration_is_not_read() -> None:
    cluster = served()
    (frozen,) = give_away(cluster, "ConfigMap")
    frozen["data"] = {"operator.json": "not ours to read"}
    (created,) = (action for action in cluster.plan().actions if isinstance(action, Create))
    assert created.object["kind"] == "ConfigMap"


def test_the_result_of_a_foreign_job_is_ignored() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    give_away(cluster, "Job")
    planned = cluster.plan()
    conditions = {each["type"]: each["status"] for each in planned.status["conditions"]}
    assert conditions["DataReady"] == "Unknown"
    assert [action.object["kind"] for action in planned.actions] == ["Job"]


def test_a_running_foreign_job_is_waited_for_and_not_changed() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    job["metadata"]["ownerReferences"] = [{"uid": "other-owner", "controller": True}]
    planned = cluster.plan()
    assert planned.actions == ()
    ready = planned.status["conditions"][0]
    assert ready["reason"] == "WaitingForPod"
    assert f"Waiting for Job {job['metadata']['name']} to finish" in ready["message"]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert [action.object["kind"] for action in cluster.plan().actions] == ["Job"]


def test_a_foreign_volume_is_not_used() -> None:
    cluster = Cluster()
    cluster.settle()
    (volume,) = give_away(cluster, "PersistentVolumeClaim")
    for child in list(cluster.objects.values()):
        if child is not volume:
            cluster.remove(child)
    cluster.job = None
    cluster.submit()
    with pytest.raises(Refused, match=r"PersistentVolumeClaim .* has another owner"):
        cluster.reconcile()
    assert not list(cluster.each("Job"))
    cluster.mark_deleted(volume)
    assert cluster.plan().status["conditions"][0]["reason"] == "WaitingForVolume"
    controllers.collect(cluster)
    cluster.settle()
    assert len(list(cluster.each("Job"))) == 1


def test_a_recreated_job_starts_over_next_to_the_remains_of_the_deleted_one() -> None:
    cluster = served()
    left: dict[str, Any] = {kind: len(list(cluster.each(kind))) for kind in LISTS}
    assert left["Job"] == 3
    cluster.job = None
    cluster.submit()
    planned = cluster.plan()
    assert planned.actions == ()
    assert planned.status["conditions"][0]["reason"] == "WaitingForCleanup"
    cluster.reconcile()
    controllers.collect(cluster)
    for pod in list(cluster.each("Pod")):
        if controllers.alive(pod):
            controllers.stop(cluster, pod)
    controllers.sync(cluster)
    controllers.sync(cluster)
    controllers.run_all(cluster)
    assert cluster.status["conditions"][0]["status"] == "True"
    assert cluster.status["revisions"][0]["stages"][0]["attempt"] == 1
