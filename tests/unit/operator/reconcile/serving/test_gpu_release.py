"""``serving.rollout: Auto``: a release of the GPU is announced, and happens once per revision."""

from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Crash, Thing
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
from tests.unit.operator.reconcile.serving.test_gpu_handover import SHARED

from finetune_operator.objects import naming

LIMIT = 600


def waiting(count: int = 1, edit: Thing = RETRAIN, **spec: Any) -> Cluster:
    """Return a cluster whose train pod of the second revision waits for the only GPU."""
    cluster = serving(count, **spec)
    cluster.edit(**edit)
    finish_stages(cluster, count, "prepare")
    scheduler.settle(cluster, count)
    assert (reason(cluster), replicas(cluster)) == ("Unschedulable", [1])
    return cluster


def training(**spec: Any) -> Cluster:
    """Return a cluster whose second revision trains on the released GPU."""
    cluster = waiting(**spec)
    pass_time(cluster, LIMIT)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])
    return cluster


def pass_time(cluster: Cluster, seconds: float, gpus: int = 1) -> None:
    """Let time pass, with a reconcile at least every 15 seconds as the operator requests them."""
    while seconds > 0:
        cluster.wait(min(15, seconds))
        scheduler.settle(cluster, gpus)
        seconds -= 15


def message(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["message"])


def summary(cluster: Cluster) -> str:
    return str(cluster.status["serving"]["summary"])


def release(cluster: Cluster) -> Thing | None:
    """Return the record of the release for the target."""
    found: Thing | None
    (found,) = [
        each.get("gpuRelease")
        for each in cluster.status["revisions"]
        if each["revision"] == cluster.status["revision"]
    ]
    return found


def events(cluster: Cluster, reason: str) -> list[str]:
    """Return the messages of all events with a reason."""
    return [event.message for event in cluster.recorded if event.reason == reason]


def test_the_release_is_announced_and_comes_at_the_announced_time() -> None:
    cluster = waiting()
    old, since = cluster.builds[0], cluster.now
    at = cluster.status["serving"]["releasePlannedAt"]
    (announcement,) = events(cluster, "GPUReleasePlanned")
    assert (
        f"Build {old} of revision {cluster.revisions[0]} releases its GPU at {at} if no other GPU"
        in announcement
    )
    assert message(cluster).startswith(announcement)
    pass_time(cluster, LIMIT - 20)
    assert (serves(cluster), cluster.status["serving"]["releasePlannedAt"]) == (
        "True/Available",
        at,
    )
    pass_time(cluster, 20)
    assert (reason(cluster), serves(cluster)) == ("Training", "False/GPUReleased")
    assert LIMIT <= (cluster.now - since).total_seconds() < LIMIT + 30
    assert "releasePlannedAt" not in cluster.status["serving"]
    assert len(events(cluster, "GPUReleasePlanned")) == 1
    assert events(cluster, "GPUReleased") == [
        f"Build {old} of revision {cluster.revisions[0]} releases its GPU to build "
        f"{cluster.builds[1]} of revision {cluster.revisions[1]}."
    ]
    finish_stages(cluster, 1, "train")
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0], "it does not load for the minutes of a merge"
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])
    record = release(cluster)
    assert record
    assert (record["ended"], replicas(cluster)) == ("Serving", [1])


def test_another_gpu_before_the_planned_time_prevents_the_release() -> None:
    cluster = waiting()
    pass_time(cluster, 300)
    scheduler.settle(cluster, 2)
    assert (reason(cluster), serves(cluster)) == ("Training", "True/Available")
    pass_time(cluster, 2 * LIMIT, gpus=2)
    assert (release(cluster), replicas(cluster)) == (None, [1])
    assert "releasePlannedAt" not in cluster.status["serving"]


@pytest.mark.parametrize("seconds", [0, 60])
def test_the_time_before_a_release_is_that_of_the_spec(seconds: int) -> None:
    cluster = serving(1, releaseAfterSeconds=seconds)
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [1 if seconds else 0]
    pass_time(cluster, seconds)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])


@pytest.mark.parametrize("seconds", [1, 600])
def test_a_release_that_is_possible_only_later_is_announced_first(seconds: int) -> None:
    """The operator was down, for example, or the pod lacked memory, too."""
    held = {"rollout": "KeepServing", "releaseAfterSeconds": seconds}
    cluster = waiting(edit={**RETRAIN, "serving": held})
    cluster.wait(2 * LIMIT)
    cluster.edit(serving={"rollout": "Auto"})
    cluster.reconcile()
    assert replicas(cluster) == [1]
    assert cluster.status["serving"]["releasePlannedAt"] < cluster.stamp()
    cluster.reconcile()
    assert replicas(cluster) == [0]


def lacks_memory(cluster: Cluster) -> None:
    condition = scheduler.pod_of(cluster, "train")["status"]["conditions"][0]
    condition["message"] = (
        "0/1 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu."
    )


def other_nodes(cluster: Cluster) -> None:
    pod = scheduler.pod_of(cluster, "train")
    pod["spec"] = {**pod["spec"], "nodeSelector": {"pool": "train"}}


def volume_elsewhere(cluster: Cluster) -> None:
    (pod,) = (
        pod
        for pod in cluster.each("Pod")
        if pod["metadata"]["labels"][naming.REVISION] == cluster.revisions[1]
        and pod["status"]["phase"] == "Succeeded"
    )
    pod["spec"] = {**pod["spec"], "nodeName": "node-2"}


def pending_server(cluster: Cluster) -> None:
    pod = scheduler.pod_of(cluster, "serve")
    pod["spec"] = {key: value for key, value in pod["spec"].items() if key != "nodeName"}


OBSTACLES = {
    "The train pod possibly lacks more than a GPU. In this case, it cannot start even if a "
    "GPU is released.": lacks_memory,
    "The train pod might not be allowed on node node-1": other_nodes,
    "might not be available on node node-1": volume_elsewhere,
    "has no GPU that it could release": pending_server,
}


@pytest.mark.parametrize("said", OBSTACLES)
def test_the_gpu_is_kept_if_its_release_might_not_help(said: str) -> None:
    cluster = waiting()
    OBSTACLES[said](cluster)
    cluster.settle()
    cluster.wait(2 * LIMIT)
    cluster.settle()
    assert release(cluster) is None
    assert all(replicas(cluster))
    assert "releasePlannedAt" not in cluster.status["serving"]
    assert said in message(cluster)
    advice = "To release the GPU anyway, set spec.serving.rollout to FreeGPU. No suitable node"
    assert (advice in message(cluster)) == (OBSTACLES[said] is not pending_server)


def test_a_volume_created_for_the_serving_node_is_available_there() -> None:
    cluster = waiting()
    volume_elsewhere(cluster)
    claim = cluster.get(naming.VOLUME, f"demo-{cluster.revisions[1]}")
    assert claim
    claim["metadata"]["annotations"] = {"volume.kubernetes.io/selected-node": "node-1"}
    pass_time(cluster, LIMIT)
    assert replicas(cluster) == [0]


def paused(cluster: Cluster) -> None:
    cluster.edit(suspend=True)


def preempted(cluster: Cluster) -> None:
    (job,) = [job for job in cluster.each("Job") if not controllers.ended(job)]
    controllers.suspend(cluster, job)


def failed(cluster: Cluster) -> None:
    text = controllers.message("train", "failed", reason="LossDiverged")
    controllers.finish(cluster, scheduler.pod_of(cluster, "train"), 81, text)


def resumed(cluster: Cluster) -> None:
    cluster.edit(suspend=False)


def admitted(cluster: Cluster) -> None:
    (job,) = [job for job in cluster.each("Job") if not controllers.ended(job)]
    controllers.admit(cluster, job)


def retried(cluster: Cluster) -> None:
    cluster.edit(runPolicy={"backoffLimit": 1})


ENDS = {
    "SuspendedByUser": (paused, resumed),
    "Preempted": (preempted, admitted),
    "LossDiverged": (failed, retried),
}


@pytest.mark.parametrize("cause", ENDS)
def test_the_gpu_is_reclaimed_and_not_released_again(cause: str) -> None:
    end, again = ENDS[cause]
    cluster = training()
    end(cluster)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == (cause, "True/Available")
    assert summary(cluster) == f"{cluster.revisions[0]} (old)"
    again(cluster)
    scheduler.settle(cluster, 1)
    pass_time(cluster, 2 * LIMIT)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")
    assert f"for revision {cluster.revisions[1]} has ended ({cause})" in message(cluster)
    cluster.edit(serving={"rollout": "FreeGPU"})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])


def test_another_revision_has_a_release_of_its_own() -> None:
    cluster = training()
    cluster.edit(training={"seed": 2})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Preparing", "True/Available")
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    pass_time(cluster, LIMIT)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])
    cluster.edit(**RETRAIN)
    scheduler.settle(cluster, 1)
    pass_time(cluster, 2 * LIMIT)
    assert (reason(cluster), replicas(cluster)) == ("Unschedulable", [1])


def test_a_release_ends_with_its_revision_even_if_serving_is_stopped() -> None:
    cluster = training()
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Training"
    cluster.edit(training={"seed": 2})
    scheduler.settle(cluster, 1)
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 1)
    cluster.edit(**RETRAIN)
    scheduler.settle(cluster, 1)
    pass_time(cluster, LIMIT)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")


def test_a_stopped_build_stays_released_when_it_may_serve_again() -> None:
    cluster = training()
    for count in (0, 1):
        cluster.edit(serving={"replicas": count})
        scheduler.settle(cluster, 1)
        assert (reason(cluster), replicas(cluster)) == ("Training", [0])
    assert serves(cluster) == "False/GPUReleased"


def test_a_release_that_does_not_help_is_taken_back() -> None:
    cluster = waiting()
    old = cluster.builds[0]
    while replicas(cluster) == [1]:
        cluster.wait(15)
        cluster.settle()
    released = cluster.now
    pass_time(cluster, 285, gpus=0)
    assert (serves(cluster), summary(cluster)) == ("False/GPUReleased", "released")
    assert f"Build {old} of revision {cluster.revisions[0]} released its GPU at " in message(
        cluster
    )
    pass_time(cluster, 15, gpus=0)
    assert replicas(cluster) == [1]
    assert 300 <= (cluster.now - released).total_seconds() < 315
    (said,) = events(cluster, "ReleaseDidNotHelp")
    assert f"no train pod of revision {cluster.revisions[1]} was assigned to a node" in said
    assert (serves(cluster), summary(cluster)) == ("False/Starting", "waiting")
    controllers.start(cluster, scheduler.pod_of(cluster, "serve"))
    scheduler.settle(cluster, 1)
    pass_time(cluster, 3 * LIMIT)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")
    record = release(cluster)
    assert record
    assert record["ended"] == "ReleaseDidNotHelp"
    assert len(events(cluster, "GPUReleased")) == 1
    scheduler.settle(cluster, 2)
    assert reason(cluster) == "Training", "like KeepServing, it waits for another GPU"


def test_a_train_pod_that_loses_its_node_has_five_minutes_to_find_another() -> None:
    cluster = training()
    pass_time(cluster, 3600)
    controllers.evict(cluster, scheduler.pod_of(cluster, "train"))
    pass_time(cluster, 285, gpus=0)
    assert replicas(cluster) == [0]
    pass_time(cluster, 30, gpus=0)
    assert (replicas(cluster), len(events(cluster, "ReleaseDidNotHelp"))) == ([1], 1)


def test_a_train_pod_that_finds_another_node_keeps_the_gpu() -> None:
    cluster = training()
    for _ in range(3):
        controllers.evict(cluster, scheduler.pod_of(cluster, "train"))
        pass_time(cluster, 200, gpus=0)
        pass_time(cluster, 15)
        assert (reason(cluster), replicas(cluster)) == ("Training", [0])
    assert events(cluster, "ReleaseDidNotHelp") == []


def test_a_release_continues_after_a_crash_between_ledger_and_deployment() -> None:
    cluster = waiting()
    cluster.wait(LIMIT)
    with pytest.raises(Crash):
        cluster.reconcile(die_before=1)
    assert (bool(release(cluster)), replicas(cluster)) == (True, [1])
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])


def test_a_change_between_free_gpu_and_auto_keeps_the_gpu_released() -> None:
    cluster = waiting(rollout="KeepServing")
    for rollout in ("FreeGPU", "Auto", "FreeGPU", "Auto"):
        cluster.edit(serving={"rollout": rollout})
        pass_time(cluster, 15)
        assert (reason(cluster), replicas(cluster)) == ("Training", [0])
    paused(cluster)
    scheduler.settle(cluster, 1)
    resumed(cluster)
    pass_time(cluster, 2 * LIMIT)
    assert (reason(cluster), replicas(cluster)) == ("Unschedulable", [1])


def test_a_new_build_of_a_trained_revision_gets_the_gpu_after_the_same_time() -> None:
    cluster = serving(1, releaseAfterSeconds=120)
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    assert len(events(cluster, "GPUReleasePlanned")) == 1
    pass_time(cluster, 100)
    assert (reason(cluster), serves(cluster)) == ("Unschedulable", "True/Available")
    pass_time(cluster, 30)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])


def test_more_than_one_replica_is_never_released_for_training() -> None:
    cluster = Cluster()
    cluster.edit(serving={"replicas": 2}, storage=SHARED)
    finish_stages(cluster, 2, "prepare", "train", "merge")
    scheduler.settle(cluster, 2)
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 2, "prepare")
    scheduler.settle(cluster, 2)
    pass_time(cluster, 2 * LIMIT, gpus=2)
    assert (reason(cluster), replicas(cluster)) == ("Unschedulable", [2])
    assert "spec.serving.replicas is 2" in message(cluster)
