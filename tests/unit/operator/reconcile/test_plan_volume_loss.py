"""A user deletes the volume of a finished revision: report, rescue, and the end of its pods."""

from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.plan_steps import delete, run_all, running, settle, sync

from finetune_operator.objects import naming


def ready(cluster: Cluster) -> Thing:
    (found,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    return dict(found)


def serve_pods(cluster: Cluster) -> list[str]:
    """Return the uids of the serving pods that run and are not terminating."""
    return [
        pod["metadata"]["uid"]
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"][naming.STAGE] == "serve"
        and pod["status"]["phase"] == "Running"
        and "deletionTimestamp" not in pod["metadata"]
    ]


def claims(cluster: Cluster) -> list[str]:
    """Return the revisions that have a claim which is not terminating."""
    return [
        each["metadata"]["labels"][naming.REVISION]
        for each in cluster.each(naming.VOLUME)
        if "deletionTimestamp" not in each["metadata"]
    ]


def warnings(cluster: Cluster, reason: str) -> list[str]:
    return [
        each.message for each in cluster.recorded if (each.type, each.reason) == ("Warning", reason)
    ]


def work(cluster: Cluster, gpus: int = 9) -> None:
    scheduler.settle(cluster, gpus, rounds=40)


def served(cluster: Cluster, gpus: int = 9, **changes: Any) -> str:
    """Edit the job, take it through its stages until it serves; return its revision."""
    cluster.edit(**changes)
    for _ in range(40):
        work(cluster, gpus)
        ended = False
        for pod in list(cluster.each("Pod")):
            stage = pod["metadata"]["labels"][naming.STAGE]
            if stage != "serve" and pod["status"]["phase"] == "Running":
                controllers.finish(cluster, pod, 0, controllers.message(stage))
                ended = True
        if not ended:
            break
    assert ready(cluster)["reason"] == "Serving"
    return str(cluster.status["revision"])


@pytest.fixture
def lost() -> Cluster:
    """A serving job whose volume is terminating, before the next reconcile."""
    cluster = Cluster()
    for step in (run_all, delete(naming.VOLUME, "demo-R")):
        step(cluster)
    return cluster


def test_the_loss_is_reported_when_the_deletion_begins(lost: Cluster) -> None:
    lost.reconcile()
    found = ready(lost)
    assert (found["status"], found["reason"]) == ("False", "VolumeLost")
    revision = lost.status["revision"]
    assert f"PersistentVolumeClaim demo-{revision}" in found["message"]
    assert f"ftj copy demo DEST -n ns --revision {revision}." in found["message"]
    assert "set spec.rerun" in found["message"]
    assert "revert" not in found["message"], "no other revision exists"
    for _ in range(3):
        lost.settle()
        sync(lost)
        lost.wait(60)
    assert len(warnings(lost, "VolumeLost")) == 1


def test_the_command_copies_the_adapter_of_a_model_that_was_not_merged() -> None:
    cluster = Cluster()
    cluster.edit(serving={"mode": "adapter"})
    served(cluster)
    delete(naming.VOLUME, "demo-R")(cluster)
    cluster.reconcile()
    assert "--adapter." in ready(cluster)["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"serving": {"extraArgs": ["--enforce-eager"]}},
        {"serving": {"maxModelLen": 512}},
        {"merge": {"dtype": "bfloat16"}},
        {"serving": {"mode": "adapter"}},
        {"suspend": True},
        {"serving": {"replicas": 2}, "storage": {"accessMode": "ReadWriteMany"}},
    ],
    ids=str,
)
def test_no_edit_replaces_the_last_pods_that_read_the_model(
    lost: Cluster, changes: dict[str, Any]
) -> None:
    before = serve_pods(lost)
    assert len(before) == 1
    lost.edit(**changes)
    work(lost)
    assert serve_pods(lost) == before
    assert ready(lost)["reason"] == "VolumeLost"
    assert lost.status["serving"]["availableReplicas"] == 1


def test_pods_that_the_user_stops_release_the_claim(lost: Cluster) -> None:
    work(lost)
    assert {each["metadata"]["labels"][naming.STAGE] for each in lost.each("Job")} == {
        *("prepare", "train", "merge")
    }, "their pods keep the files while the model may still be copied"
    lost.edit(serving={"replicas": 0})
    work(lost)
    assert [*lost.each("Pod")] == [*lost.each("Job")] == [*lost.each(naming.VOLUME)] == []
    found = ready(lost)
    assert found["reason"] == "VolumeLost"
    assert "which held the model, was deleted" in found["message"]
    lost.edit(serving={"replicas": 1})
    work(lost)
    assert [*lost.each("Pod")] == [], "a pod would wait for a volume for ever"


def test_no_pod_is_left_to_read_the_model(lost: Cluster) -> None:
    (pod,) = (pod for pod in lost.each("Pod") if pod["metadata"]["uid"] in serve_pods(lost))
    controllers.evict(lost, pod)
    for _ in range(3):
        lost.settle()
        scheduler.schedule(lost, 9)
    assert serve_pods(lost) == []
    assert "No running pod mounts" in ready(lost)["message"]
    assert len(list(lost.each(naming.VOLUME))) == 1, "an administrator can still save the files"


def test_a_revert_to_the_named_revision_serves_again() -> None:
    cluster = Cluster()
    first = served(cluster)
    second = served(cluster, rerun="2")
    delete(naming.VOLUME, "demo-R")(cluster)
    cluster.reconcile()
    assert f"To serve revision {first}, whose volume is intact, revert" in ready(cluster)["message"]
    jobs = {each["metadata"]["uid"] for each in cluster.each("Job")}
    assert served(cluster, rerun=None) == first
    work(cluster)
    assert {each["metadata"]["uid"] for each in cluster.each("Job")} <= jobs, "nothing was trained"
    assert claims(cluster) == [first]
    assert {each["revision"] for each in cluster.status["revisions"]} == {first, second}


def test_another_training_keeps_the_intact_older_model() -> None:
    cluster = Cluster()
    first = served(cluster)
    second = served(cluster, rerun="2")
    delete(naming.VOLUME, "demo-R")(cluster)
    third = served(cluster, rerun="3")
    work(cluster)
    assert sorted(claims(cluster)) == sorted([first, third])
    assert [each["revision"] for each in cluster.status["revisions"]] == [first, second, third]


def test_a_claim_that_is_restored_under_its_name_is_kept() -> None:
    """A revision keeps its record while its claim is gone; a claim without one is deleted."""
    cluster = Cluster()
    first = served(cluster)
    second = served(cluster, rerun="2")
    key = (naming.VOLUME, f"demo-{first}")
    claim = cluster.objects.pop(key)
    cluster.edit(serving={"extraArgs": ["--max-num-seqs=64"]})
    work(cluster)
    assert claims(cluster) == [second]
    cluster.objects[key] = claim
    cluster.edit(serving={"extraArgs": ["--max-num-seqs=32"]})
    work(cluster)
    assert sorted(claims(cluster)) == sorted([first, second])


def test_the_last_model_is_kept_whatever_the_limit() -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    first = served(cluster)
    cluster.edit(serving={"enabled": False}, rerun="2")
    work(cluster)
    assert ready(cluster)["reason"] == "Preparing"
    assert first in claims(cluster)
    second = served(cluster, serving={"enabled": True})
    work(cluster)
    assert claims(cluster) == [second]


def test_a_model_that_failed_its_verification_does_not_replace_one_that_served() -> None:
    cluster = Cluster()
    first = served(cluster)
    cluster.edit(rerun="2")
    for stage in ("prepare", "train", "merge"):
        controllers.run(cluster, stage)
    cluster.settle()
    sync(cluster)
    scheduler.mismatch(cluster, scheduler.pod_of(cluster, "serve", cluster.status["build"]))
    work(cluster)
    assert ready(cluster)["reason"] == "RolloutFailed"
    cluster.edit(serving={"enabled": False}, rerun="3")
    work(cluster)
    assert sorted(claims(cluster)) == sorted([first, cluster.status["revision"]])


def test_the_stable_build_keeps_its_gpu_and_its_pods_if_its_volume_is_deleted() -> None:
    cluster = Cluster()
    first = served(cluster, gpus=1)
    before = serve_pods(cluster)
    delete(naming.VOLUME, "demo-R")(cluster)
    cluster.edit(rerun="2", serving={"rollout": "FreeGPU"})
    work(cluster, gpus=1)
    pod = scheduler.pod_of(cluster, "prepare")
    controllers.finish(cluster, pod, 0, controllers.message("prepare"))
    for _ in range(3):
        work(cluster, gpus=1)
        cluster.wait(700)
    assert serve_pods(cluster) == before
    assert ready(cluster)["reason"] == "Unschedulable"
    assert "keeps its GPU: its volume is terminating" in ready(cluster)["message"]
    (warning,) = (each for each in warnings(cluster, "WarningRaised") if "ftj copy" in each)
    assert f"--revision {first}." in warning
    assert warning in cluster.status["warnings"]

    cluster.edit(serving={"replicas": 0})
    work(cluster, gpus=1)
    assert scheduler.running(cluster, "train") == [cluster.status["revision"]]
    assert first not in [
        each["metadata"]["labels"][naming.REVISION] for each in cluster.each(naming.VOLUME)
    ]
    cluster.edit(serving={"replicas": 1})
    work(cluster, gpus=1)
    assert not any(
        pod["metadata"]["labels"][naming.REVISION] == first for pod in cluster.each("Pod")
    ), "a pod would wait for a volume for ever"


def test_a_lost_deployment_is_not_created_again_without_its_volume(lost: Cluster) -> None:
    lost.edit(rerun="2")
    settle(lost)
    delete("Deployment", "demo-b1")(lost)
    work(lost)
    assert lost.builds[0] not in [
        each["metadata"]["labels"][naming.BUILD] for each in lost.each("Deployment")
    ]


@pytest.mark.parametrize("gone", [False, True], ids=["terminating", "gone"])
def test_a_result_that_was_not_recorded_is_lost_with_its_volume(gone: bool) -> None:
    cluster = Cluster()
    running("prepare")(cluster)
    pod = controllers.pod_of_stage(cluster, "prepare")
    controllers.finish(cluster, pod, 0, controllers.message("prepare"))
    sync(cluster)
    if gone:
        (claim,) = cluster.each(naming.VOLUME)
        cluster.remove(claim)
    else:
        delete(naming.VOLUME, "demo-R")(cluster)
    work(cluster)
    assert "JobDeleted" not in [each.reason for each in cluster.recorded]
    # While the claim is terminating, the condition says that the job waits for it.
    assert len(warnings(cluster, "VolumeLost")) == gone
    (stage,) = cluster.status["revisions"][0]["stages"]
    assert (stage["attempt"], stage["outcome"]) == (2, "Running")


def test_an_orphan_that_keeps_the_claim_is_named() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    running("train")(cluster)
    (orphan,) = (pod for pod in cluster.each("Pod") if pod["status"]["phase"] == "Succeeded")
    delete("Job", "demo-R-prepare-1", "Orphan")(cluster)
    delete(naming.VOLUME, "demo-R")(cluster)
    work(cluster)
    found = ready(cluster)
    name = orphan["metadata"]["name"]
    assert found["reason"] == "WaitingForVolume"
    assert f"kubectl delete pod {name} -n ns" in found["message"]
    cluster.mark_deleted(orphan)
    work(cluster)
    assert ready(cluster)["reason"] == "Preparing"
