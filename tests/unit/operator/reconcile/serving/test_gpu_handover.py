"""The build that has the GPU during a rollout, with one GPU and with two."""

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.serving_steps import (
    REMERGE,
    RETRAIN,
    finish_stages,
    reason,
    replicas,
    selected,
    serves,
    serving,
)

from finetune_operator.objects import naming


@pytest.mark.parametrize("rollout", ["Auto", "KeepServing", "FreeGPU"])
def test_two_gpus_leave_no_gap(rollout: str) -> None:
    cluster = serving(2, rollout=rollout)
    (old,) = cluster.builds
    cluster.edit(**RETRAIN)
    for stage in ("prepare", "train", "merge"):
        finish_stages(cluster, 2, stage)
        assert (replicas(cluster), serves(cluster)) == ([1], "True/Available")
    for _ in range(20):
        cluster.reconcile()
        controllers.sync(cluster)
        # What is selected answers, at every step.
        assert selected(cluster) in scheduler.running(cluster, "serve")
        scheduler.schedule(cluster, 2)
    assert cluster.builds[0] == old != selected(cluster) == cluster.status["build"]
    assert replicas(cluster) == [1]
    assert reason(cluster) == "Serving"


def test_keep_serving_keeps_the_gpu_while_training_waits() -> None:
    cluster = serving(1, rollout="KeepServing")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    cluster.wait(3600)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")
    assert replicas(cluster) == [1]
    assert cluster.status["conditions"][0]["message"].startswith(
        f"Build {cluster.builds[0]} of revision {cluster.revisions[0]} keeps its GPU. To let "
        "training use the GPU, set "
        "spec.serving.rollout to Auto or FreeGPU. No suitable node has a free GPU"
    )


def test_the_gpu_is_released_only_when_a_train_pod_needs_it() -> None:
    cluster = serving(1, rollout="FreeGPU")
    (old,) = cluster.builds
    cluster.edit(**RETRAIN)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Preparing", [1])
    controllers.finish(
        cluster, scheduler.pod_of(cluster, "prepare"), 0, controllers.message("prepare")
    )
    controllers.sync(cluster)
    cluster.settle()
    assert replicas(cluster) == [1], "the train pod is not there yet"
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), serves(cluster)) == ([0], "False/GPUReleased")
    assert (scheduler.running(cluster, "train"), scheduler.running(cluster, "serve")) == (
        [cluster.revisions[1]],
        [],
    )
    finish_stages(cluster, 1, "train", "merge")
    assert replicas(cluster)[0] == 0, "it does not load for the minutes of a merge"
    scheduler.settle(cluster, 1)
    new = cluster.builds[1]
    assert (selected(cluster), scheduler.running(cluster, "serve")) == (new, [new])
    assert new != old
    assert (reason(cluster), replicas(cluster)) == ("Serving", [1])


def test_free_gpu_does_not_release_the_gpu_for_the_pod_of_a_stopped_attempt() -> None:
    cluster = serving(1, rollout="KeepServing")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Unschedulable"
    # The edit stops the attempt, whose pod still waits for a GPU.
    cluster.edit(serving={"rollout": "FreeGPU"}, resources={"train": {"limits": {"cpu": "2"}}})
    planned = cluster.reconcile()
    assert [type(action).__name__ for action in planned.actions] == ["Delete"]
    assert replicas(cluster) == [1]
    controllers.sync(cluster)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Training")


def training_on_the_freed_gpu() -> Cluster:
    cluster = serving(1, rollout="FreeGPU")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Training")
    return cluster


def test_a_pause_reclaims_the_gpu_and_a_resume_releases_it() -> None:
    cluster = training_on_the_freed_gpu()
    cluster.edit(suspend=True)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("SuspendedByUser", "True/Available")
    cluster.edit(suspend=False)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Training", "False/GPUReleased")


def test_a_preemption_reclaims_the_gpu() -> None:
    """Kueue preempts a workload by suspending its Job."""
    cluster = training_on_the_freed_gpu()
    (job,) = [job for job in cluster.each("Job") if not controllers.ended(job)]
    job["spec"]["suspend"] = True
    cluster.touch(job)
    pod = scheduler.pod_of(cluster, "train")
    cluster.mark_deleted(pod)
    controllers.stop(cluster, pod)
    cluster.remove(pod)
    cluster.settle()
    assert replicas(cluster) == [1]
    assert reason(cluster) == "Preempted"


def test_a_training_failure_reclaims_the_gpu() -> None:
    cluster = training_on_the_freed_gpu()
    text = controllers.message("train", "failed", reason="LossDiverged")
    controllers.finish(cluster, scheduler.pod_of(cluster, "train"), 81, text)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("LossDiverged", "True/Available")


def test_data_preparation_of_another_revision_reclaims_the_gpu() -> None:
    cluster = training_on_the_freed_gpu()
    cluster.edit(training={"seed": 2})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Preparing", "True/Available")


def test_a_merge_failure_reclaims_the_gpu() -> None:
    cluster = training_on_the_freed_gpu()
    finish_stages(cluster, 1, "train")
    scheduler.settle(cluster, 1)
    text = controllers.message("merge", "failed", reason="NotMergeable")
    controllers.finish(cluster, scheduler.pod_of(cluster, "merge"), 84, text)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("NotMergeable", "True/Available")


def test_free_gpu_releases_the_gpu_at_once_for_verification() -> None:
    cluster = serving(1, rollout="FreeGPU")
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    assert selected(cluster) == cluster.builds[1]
    assert reason(cluster) == "Serving"


def test_keep_serving_releases_the_gpu_after_the_pending_deadline() -> None:
    cluster = serving(1, rollout="KeepServing")
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    cluster.wait(500)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")
    cluster.wait(200)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])


def test_no_release_is_announced_while_the_endpoint_switches_to_another_pod() -> None:
    cluster = serving(1, rollout="KeepServing")
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    assert cluster.status["serving"]["releasePlannedAt"]
    # A pod that the Deployment replaces is ready, and the other one waits.
    (*_, candidate) = cluster.each("Deployment")
    candidate["status"] |= {"readyReplicas": 1, "availableReplicas": 1}
    cluster.touch(candidate)
    cluster.reconcile()
    assert reason(cluster) == "Starting"
    assert "releasePlannedAt" not in cluster.status["serving"]


def test_a_failed_verification_returns_the_gpu_to_the_stable_build() -> None:
    cluster = serving(1, rollout="FreeGPU")
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    cluster.settle()
    controllers.sync(cluster)
    scheduler.schedule(cluster, 1)
    cluster.settle()
    assert replicas(cluster) == [0, 1]
    scheduler.mismatch(cluster, scheduler.pod_of(cluster, "serve", cluster.builds[1]))
    cluster.settle()
    assert replicas(cluster) == [1, 0]
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("RolloutFailed", "True/Available")
    assert selected(cluster) == cluster.builds[0]


def test_a_pause_stops_the_candidate() -> None:
    cluster = serving(1, rollout="FreeGPU")
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    cluster.settle()
    controllers.sync(cluster)
    scheduler.schedule(cluster, 1)
    cluster.settle()
    cluster.edit(suspend=True)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), serves(cluster)) == ([1, 0], "True/Available")
    cluster.edit(suspend=False)
    scheduler.settle(cluster, 1)
    assert selected(cluster) == cluster.builds[1]


SHARED: Thing = {"accessMode": "ReadWriteMany"}


def test_the_service_waits_for_every_replica_that_can_have_a_gpu() -> None:
    cluster = Cluster()
    cluster.edit(serving={"replicas": 2}, storage=SHARED)
    finish_stages(cluster, 4, "prepare", "train", "merge")
    scheduler.settle(cluster, 4)
    cluster.edit(**REMERGE)
    finish_stages(cluster, 4, "merge")
    cluster.settle()
    controllers.sync(cluster)
    first, second = (
        pod
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"].get(naming.BUILD) == cluster.builds[1]
        and pod["metadata"]["labels"][naming.STAGE] == "serve"
    )
    controllers.start(cluster, first)
    controllers.sync(cluster)
    cluster.settle()
    assert selected(cluster) == cluster.builds[0], "the second is still loading"
    scheduler.refuse(cluster, second)
    cluster.reconcile()
    assert selected(cluster) == cluster.builds[1], "the second has no GPU to wait for"


def test_replicas_follow_the_spec_on_both_sides_of_a_rollout() -> None:
    cluster = Cluster()
    cluster.edit(serving={"replicas": 2}, storage=SHARED)
    finish_stages(cluster, 9, "prepare", "train", "merge")
    scheduler.settle(cluster, 9)
    (budget,) = cluster.each("PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"][naming.BUILD] == cluster.builds[0]
    cluster.edit(**RETRAIN)
    scheduler.settle(cluster, 9)
    cluster.edit(serving={"replicas": 3})
    scheduler.settle(cluster, 9)
    assert replicas(cluster) == [3]
    assert cluster.status["serving"]["replicas"] == 3
    assert cluster.status["serving"]["selector"] == (
        f"finetune.dev/build={cluster.builds[0]},finetune.dev/job=demo,finetune.dev/stage=serve"
    )
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 9)
    assert (replicas(cluster), serves(cluster)) == ([0], "False/ScaledToZero")
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 9)
    assert not list(cluster.each("PodDisruptionBudget"))


def test_zero_replicas_stop_serving_and_keep_everything() -> None:
    cluster = serving(1)
    before = {(kind, name) for kind, name in cluster.objects if kind != "Pod"}
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("ScaledToZero", "False/ScaledToZero")
    assert scheduler.running(cluster, "serve") == []
    assert {(kind, name) for kind, name in cluster.objects if kind != "Pod"} == before
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Serving", "True/Available")


def test_a_read_write_once_volume_serves_one_replica() -> None:
    cluster = serving(3)
    cluster.edit(serving={"replicas": 3}, storage=SHARED)
    scheduler.settle(cluster, 3)
    assert replicas(cluster) == [1]
    assert "ReadWriteOnce" in cluster.status["warnings"][0]
