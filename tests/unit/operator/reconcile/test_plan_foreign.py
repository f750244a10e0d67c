"""Deletion, and objects that carry the job's label but belong to somebody else."""

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
    """Make the children of a kind somebody else's, as after a quick delete and re-create."""
    found = list(cluster.each(kind))
    for child in found:
        child["metadata"]["ownerReferences"] = [{"uid": "somebody-else", "controller": True}]
    return found


@pytest.mark.parametrize(
    "done", [(), ("prepare",), ("prepare", "train"), ("prepare", "train", "merge")]
)
def test_a_job_that_is_being_deleted_gets_nothing(done: tuple[str, ...]) -> None:
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


def test_a_deployment_or_service_of_somebody_else_is_not_ours() -> None:
    cluster = served()
    give_away(cluster, "Deployment")
    give_away(cluster, "Service")
    planned = cluster.plan()
    conditions = {each["type"]: each["status"] for each in planned.status["conditions"]}
    assert conditions["Ready"] == conditions["Serving"] == "False"
    with pytest.raises(Refused, match="somebody else's"):
        cluster.look()
    cluster.edit(serving={"enabled": False})
    assert cluster.plan().actions == ()


def test_a_frozen_configuration_of_somebody_else_is_not_read() -> None:
    cluster = served()
    (frozen,) = give_away(cluster, "ConfigMap")
    frozen["data"] = {"operator.json": "not ours to read"}
    (created,) = (action for action in cluster.plan().actions if isinstance(action, Create))
    assert created.object["kind"] == "ConfigMap"


def test_the_result_of_somebody_elses_job_is_not_ours() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    give_away(cluster, "Job")
    planned = cluster.plan()
    conditions = {each["type"]: each["status"] for each in planned.status["conditions"]}
    assert conditions["DataReady"] == "Unknown"
    assert [action.object["kind"] for action in planned.actions] == ["Job"]


def test_a_running_job_of_somebody_else_is_waited_for_and_left_alone() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    job["metadata"]["ownerReferences"] = [{"uid": "somebody-else", "controller": True}]
    planned = cluster.plan()
    assert planned.actions == ()
    ready = planned.status["conditions"][0]
    assert ready["reason"] == "WaitingForPod"
    assert f"waiting for Job {job['metadata']['name']} to end" in ready["message"]
    job["status"] = {"conditions": [{"type": "Failed", "status": "True"}]}
    assert [action.object["kind"] for action in cluster.plan().actions] == ["Job"]


def test_a_volume_of_somebody_else_is_not_used() -> None:
    cluster = Cluster()
    cluster.settle()
    (volume,) = give_away(cluster, "PersistentVolumeClaim")
    for child in list(cluster.objects.values()):
        if child is not volume:
            cluster.remove(child)
    cluster.job = None
    cluster.submit()
    with pytest.raises(Refused, match=r"PersistentVolumeClaim .* is somebody else's"):
        cluster.look()
    assert not list(cluster.each("Job"))
    cluster.mark_deleted(volume)
    assert cluster.plan().status["conditions"][0]["reason"] == "WaitingForVolume"
    controllers.collect(cluster)
    cluster.settle()
    assert len(list(cluster.each("Job"))) == 1


def test_a_job_created_again_starts_afresh_beside_what_is_left_of_the_old_one() -> None:
    cluster = served()
    left: dict[str, Any] = {kind: len(list(cluster.each(kind))) for kind in LISTS}
    assert left["Job"] == 3
    cluster.job = None
    cluster.submit()
    planned = cluster.plan()
    assert planned.actions == ()
    assert planned.status["conditions"][0]["reason"] == "WaitingForCleanup"
    cluster.look()
    controllers.collect(cluster)
    for pod in list(cluster.each("Pod")):
        if controllers.alive(pod):
            controllers.stop(cluster, pod)
    controllers.sync(cluster)
    controllers.sync(cluster)
    controllers.run_all(cluster)
    assert cluster.status["conditions"][0]["status"] == "True"
    assert cluster.status["revisions"][0]["stages"][0]["attempt"] == 1
