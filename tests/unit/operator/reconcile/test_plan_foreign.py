"""Deletion, and objects with the job's label that have another owner."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Refused, Thing, stored

from finetune_operator.actions import Create
from finetune_operator.types import LISTS


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


def job_of(cluster: Cluster, stage: str) -> Thing:
    (found,) = (
        each
        for each in cluster.each("Job")
        if each["metadata"]["labels"]["finetune.dev/stage"] == stage
    )
    return found


def recorded(cluster: Cluster, stage: str) -> Thing:
    attempts: list[Thing] = cluster.status["revisions"][0]["stages"]
    (found,) = (each for each in attempts if each["stage"] == stage)
    return found


def replace_job(cluster: Cluster, stage: str) -> Thing:
    """Replace a Job by one of the same name and content that claims to be complete."""
    job = job_of(cluster, stage)
    cluster.remove(job)
    copy = cluster.add(job)
    controllers.sync(cluster)
    (pod,) = controllers.pods_of(cluster, copy)
    controllers.start(cluster, pod)
    text = controllers.message(stage, artifacts={"adapter": "sha256:" + "f" * 64})
    controllers.finish(cluster, pod, 0, text)
    controllers.sync(cluster)
    return copy


def test_the_ledger_records_the_uid_of_the_job_of_each_attempt() -> None:
    cluster = served()
    for stage in ("prepare", "train", "merge"):
        assert recorded(cluster, stage)["job"] == job_of(cluster, stage)["metadata"]["uid"]
    assert "job" not in recorded(cluster, "serve")


@pytest.mark.parametrize("running", [True, False])
def test_no_result_is_taken_from_a_job_that_replaced_the_operators(*, running: bool) -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    cluster.settle()
    if running:
        controllers.sync(cluster)
        controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
        cluster.settle()
    own = recorded(cluster, "train")["job"]
    foreign = replace_job(cluster, "train")
    planned = cluster.plan()
    (event,) = (each for each in planned.events if each.reason == "JobReplaced")
    assert own in event.message
    assert foreign["metadata"]["uid"] in event.message
    for pod in controllers.pods_of(cluster, {"metadata": {"uid": own}}):
        controllers.stop(cluster, pod)
    controllers.sync(cluster)
    cluster.settle()
    attempt = recorded(cluster, "train")
    assert (attempt["attempt"], attempt["disruptions"]) == (2, 1)
    assert "adapter" not in cluster.status["revisions"][0].get("artifacts", {})


def test_a_running_job_that_the_operator_did_not_create_is_deleted() -> None:
    cluster = Cluster()
    cluster.settle()
    job = job_of(cluster, "prepare")
    cluster.remove(job)
    foreign = cluster.add(job)
    cluster.settle()
    assert "deletionTimestamp" in foreign["metadata"]
    controllers.sync(cluster)
    cluster.settle()
    assert recorded(cluster, "prepare")["attempt"] == 2


def test_a_job_with_the_number_of_another_attempt_is_deleted() -> None:
    cluster = Cluster()
    cluster.settle()
    other = stored(job_of(cluster, "prepare"))
    other["metadata"]["name"] += "7"
    other["metadata"]["labels"]["finetune.dev/attempt"] = "17"
    other = cluster.add(other)
    cluster.settle()
    assert "deletionTimestamp" in other["metadata"]
    assert "deletionTimestamp" not in job_of_attempt(cluster, "1")["metadata"]
    assert recorded(cluster, "prepare")["outcome"] == "Running"


def job_of_attempt(cluster: Cluster, number: str) -> Thing:
    (found,) = (
        each
        for each in cluster.each("Job")
        if each["metadata"]["labels"]["finetune.dev/attempt"] == number
    )
    return found


def crash_after_the_creation(cluster: Cluster) -> Thing:
    """Crash before the ledger records the uid of the Job of ``prepare``."""
    cluster.reconcile()
    cluster.created.clear()
    job = job_of(cluster, "prepare")
    assert "job" not in recorded(cluster, "prepare")
    return job


def is_replaced(cluster: Cluster, job: Thing) -> None:
    """Assert that the operator deletes a Job of ``prepare``, and runs another one."""
    cluster.settle()
    assert "deletionTimestamp" in job["metadata"]
    controllers.sync(cluster)
    cluster.settle()
    attempt = recorded(cluster, "prepare")
    assert (attempt["attempt"], attempt["outcome"]) == (2, "Running")
    assert attempt["job"] != job["metadata"]["uid"]


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_whose_uid_was_not_recorded_is_kept_if_its_content_is_right(*, ended: bool) -> None:
    cluster = Cluster()
    job = crash_after_the_creation(cluster)
    controllers.sync(cluster)
    if ended:
        pod = controllers.pod_of_stage(cluster, "prepare")
        controllers.start(cluster, pod)
        controllers.finish(cluster, pod, 0, controllers.message("prepare"))
        controllers.sync(cluster)
    cluster.settle()
    attempt = recorded(cluster, "prepare")
    assert (attempt["attempt"], attempt["job"]) == (1, job["metadata"]["uid"])
    assert attempt["outcome"] == ("Completed" if ended else "Running")


def test_no_result_is_taken_from_a_job_of_other_content_that_came_first() -> None:
    cluster = Cluster()
    job = crash_after_the_creation(cluster)
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "hostile"
    controllers.sync(cluster)
    pod = controllers.pod_of_stage(cluster, "prepare")
    controllers.start(cluster, pod)
    controllers.finish(cluster, pod, 0, controllers.message("prepare"))
    controllers.sync(cluster)
    is_replaced(cluster, job)


def test_a_job_that_was_created_before_an_edit_of_its_labels_is_replaced() -> None:
    """The edit gives a failed stage no new attempt, so the operator would wait for this Job."""
    cluster = Cluster()
    job = crash_after_the_creation(cluster)
    cluster.edit(podMetadata={"labels": {"example.com/cost-centre": "a-42"}})
    is_replaced(cluster, job)


def test_an_edit_in_the_window_before_the_uid_is_recorded_starts_another_attempt() -> None:
    cluster = Cluster()
    job = crash_after_the_creation(cluster)
    cluster.edit(resources={"prepare": {"limits": {"memory": "20Gi"}}})
    is_replaced(cluster, job)
