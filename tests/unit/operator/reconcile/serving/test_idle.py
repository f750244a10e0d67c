"""Endpoints without requests: when their pods are stopped, and how they are woken."""

from datetime import timedelta
from typing import Any

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Crash
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

AFTER = 600


def idle_serving(gpus: int = 1, **spec: Any) -> Cluster:
    """Return a cluster whose job serves, and has stopped serving without requests."""
    return serving(gpus, idle={"afterSeconds": AFTER}, **spec)


def asleep(gpus: int = 1, **spec: Any) -> Cluster:
    cluster = idle_serving(gpus, **spec)
    cluster.wait(AFTER)
    scheduler.settle(cluster, gpus)
    assert (replicas(cluster), serves(cluster)) == ([0], "False/Idle")
    return cluster


def wake(cluster: Cluster, gpus: int = 1) -> None:
    cluster.wait(60)
    cluster.annotate(wake=cluster.stamp())
    scheduler.settle(cluster, gpus)


def message(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["message"])


def test_pods_are_stopped_after_the_time_without_requests() -> None:
    cluster = idle_serving()
    assert cluster.status["serving"]["idleAfterSeconds"] == AFTER
    cluster.wait(AFTER - 1)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")
    cluster.wait(1)
    stamp = cluster.stamp()
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster), serves(cluster)) == ([0], "Idle", "False/Idle")
    status = cluster.status["serving"]
    assert (status["idleSince"], status["summary"]) == (stamp, "idle")
    assert message(cluster) == (
        "The model has no serving pods because no requests came for 600 s. To start them, run: "
        "kubectl annotate ftj demo -n ns --overwrite finetune.dev/wake=$(date -u +%FT%TZ)"
    )
    assert cluster.get("Service", "demo-serve"), "clients get a connection error, no other pods"


def test_without_the_field_pods_keep_running() -> None:
    cluster = serving(1)
    cluster.wait(10 * AFTER)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")
    assert cluster.status["serving"].keys().isdisjoint({"idleAfterSeconds", "lastRequestAt"})


def test_a_request_starts_the_time_again_and_is_recorded_coarsely() -> None:
    cluster = idle_serving()
    cluster.wait(AFTER - 100)
    cluster.last_request = cluster.now
    first = cluster.stamp()
    scheduler.settle(cluster, 1)
    assert cluster.status["serving"]["lastRequestAt"] == first
    cluster.wait(200)
    cluster.last_request = cluster.now
    scheduler.settle(cluster, 1)
    assert cluster.status["serving"]["lastRequestAt"] == first, "one write in five minutes"
    cluster.wait(200)
    cluster.last_request = cluster.now
    scheduler.settle(cluster, 1)
    assert cluster.status["serving"]["lastRequestAt"] == cluster.stamp()
    cluster.wait(AFTER - 1)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [1]
    cluster.wait(1)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0]


def test_the_next_reconcile_comes_before_the_status_is_out_of_date() -> None:
    cluster = idle_serving()
    assert cluster.plan().requeue_after == 300
    cluster.edit(serving={"idle": {"afterSeconds": 900}})
    assert cluster.plan().requeue_after == 5, "then the pods are scraped with the new time"


def test_waking_starts_and_verifies_the_pods() -> None:
    cluster = asleep()
    since = cluster.status["serving"]["idleSince"]
    cluster.annotate(wake=since)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0], "a time that is not later has no effect"
    cluster.wait(1)
    cluster.annotate(wake=cluster.stamp())
    cluster.settle()
    assert (replicas(cluster), reason(cluster), serves(cluster)) == (
        [1],
        "Starting",
        "False/Starting",
    )
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("Serving", "True/Available")
    assert "idleSince" not in cluster.status["serving"]
    # The time counts from the wake, and the same annotation does not wake it again.
    cluster.wait(AFTER - 1)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [1]
    cluster.wait(1)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Idle")


def test_an_annotation_keeps_a_running_endpoint() -> None:
    cluster = idle_serving()
    cluster.wait(AFTER - 1)
    cluster.annotate(wake=cluster.stamp())
    cluster.wait(AFTER - 1)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [1]
    cluster.wait(1)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0]


def test_an_endpoint_wakes_at_a_later_time() -> None:
    cluster = asleep()
    at = cluster.now + timedelta(hours=2)
    cluster.annotate(wake=at.isoformat())
    assert cluster.settle().requeue_after == 3600
    cluster.wait(3600 + 1800)
    assert cluster.settle().requeue_after == 1800
    assert replicas(cluster) == [0]
    cluster.wait(1800)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


@pytest.mark.parametrize("text", ["now", "2030-01-02", "2030-01-02T10:00:00", "9" * 100, ""])
def test_an_annotation_without_a_time_has_no_effect_and_is_reported(text: str) -> None:
    cluster = asleep()
    cluster.wait(10**6)
    cluster.annotate(wake=text)
    scheduler.settle(cluster, 1)
    assert replicas(cluster) == [0]
    assert message(cluster).startswith(
        "The model has no serving pods because no requests came for 600 s. The annotation "
        f'finetune.dev/wake has the value "{text[:64]}", which is not a time such as '
        f"{cluster.status['serving']['idleSince']}. To start them, run: "
    )


def test_removing_the_field_starts_the_pods() -> None:
    cluster = asleep()
    cluster.edit(serving={"idle": None})
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


def test_more_replicas_do_not_wake_an_endpoint_but_take_effect_when_it_wakes() -> None:
    cluster = Cluster()
    cluster.edit(serving={"idle": {"afterSeconds": AFTER}}, storage={"accessMode": "ReadWriteMany"})
    finish_stages(cluster, 2, "prepare", "train", "merge")
    scheduler.settle(cluster, 2)
    cluster.wait(AFTER)
    cluster.edit(serving={"replicas": 2})
    scheduler.settle(cluster, 2)
    assert replicas(cluster) == [2], "the new pod has not waited for a request yet"
    cluster.wait(AFTER)
    scheduler.settle(cluster, 2)
    assert replicas(cluster) == [0]
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 2)
    assert (replicas(cluster), reason(cluster)) == ([0], "Idle")
    wake(cluster, 2)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


def test_scaling_an_idle_endpoint_to_zero_and_back_wakes_it() -> None:
    cluster = asleep()
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 1)
    assert (reason(cluster), serves(cluster)) == ("ScaledToZero", "False/ScaledToZero")
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


def test_one_of_several_pods_that_gets_requests_keeps_all() -> None:
    cluster = Cluster()
    cluster.edit(
        serving={"idle": {"afterSeconds": AFTER}, "replicas": 2},
        storage={"accessMode": "ReadWriteMany"},
    )
    finish_stages(cluster, 2, "prepare", "train", "merge")
    scheduler.settle(cluster, 2)
    cluster.wait(AFTER)
    snapshot = cluster.observe()
    busy, quiet = snapshot.requests
    for requests in ((quiet,), (quiet, type(busy)(pod=busy.pod, count=9, idle_seconds=1.0))):
        planned = cluster.plan_of(type(snapshot)(**{**vars(snapshot), "requests": requests}))
        assert "idleSince" not in {k for k, v in planned.status["serving"].items() if v}


def test_a_pod_that_starts_is_not_stopped() -> None:
    cluster = idle_serving()
    cluster.edit(serving={"maxModelLen": 1024})
    cluster.settle()
    controllers.sync(cluster)
    cluster.wait(10 * AFTER)
    cluster.settle()
    assert replicas(cluster) == [1], "it has not verified its model yet"


def test_an_edit_of_the_pods_of_an_idle_endpoint_takes_effect_when_it_wakes() -> None:
    cluster = asleep()
    cluster.edit(serving={"maxModelLen": 1024})
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Idle")
    (deployment,) = cluster.each("Deployment")
    assert "1024" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    wake(cluster)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


def test_a_rollout_keeps_the_stable_build_and_ends_its_idleness() -> None:
    cluster = idle_serving(2)
    cluster.edit(**REMERGE)
    finish_stages(cluster, 2, "merge")
    cluster.settle()
    controllers.sync(cluster)
    cluster.wait(10 * AFTER)
    cluster.settle()
    assert replicas(cluster) == [1, 1], "the candidate is being verified"
    scheduler.settle(cluster, 2)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")
    assert selected(cluster) == cluster.builds[1]


def test_a_new_build_of_an_idle_endpoint_is_rolled_out() -> None:
    cluster = asleep()
    cluster.edit(**REMERGE)
    finish_stages(cluster, 1, "merge")
    assert replicas(cluster)[0] == 0
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")
    assert selected(cluster) == cluster.builds[1]
    assert "idleSince" not in cluster.status["serving"]


def test_an_endpoint_becomes_idle_while_the_next_revision_is_trained() -> None:
    cluster = idle_serving(2)
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 2, "prepare")
    scheduler.settle(cluster, 2)
    cluster.wait(AFTER)
    scheduler.settle(cluster, 2)
    assert (replicas(cluster), reason(cluster), serves(cluster)) == ([0], "Training", "False/Idle")
    wake(cluster, 2)
    assert (replicas(cluster), serves(cluster)) == ([1], "True/Available")


@pytest.mark.parametrize("rollout", ["Auto", "FreeGPU", "KeepServing"])
def test_waking_during_training_takes_no_gpu_from_a_train_pod(rollout: str) -> None:
    cluster = asleep(rollout=rollout)
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Training"
    wake(cluster)
    assert (replicas(cluster), reason(cluster)) == ([1], "Training")
    assert scheduler.running(cluster, "serve") == [], "it waits for the GPU"


def test_with_free_gpu_a_waiting_train_pod_comes_first() -> None:
    cluster = asleep(rollout="FreeGPU")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 0)
    wake(cluster, 0)
    assert (replicas(cluster), serves(cluster)) == ([0], "False/GPUReleased")
    assert "idleSince" not in cluster.status["serving"]


def test_an_idle_endpoint_stays_idle_while_the_job_is_suspended() -> None:
    cluster = asleep()
    cluster.edit(suspend=True)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Idle")
    wake(cluster)
    assert (replicas(cluster), reason(cluster)) == ([1], "Serving")


def test_after_a_failed_rollout_the_stable_build_becomes_idle() -> None:
    cluster = idle_serving(2)
    cluster.edit(**REMERGE)
    finish_stages(cluster, 2, "merge")
    cluster.settle()
    controllers.sync(cluster)
    scheduler.mismatch(cluster, scheduler.pod_of(cluster, "serve", cluster.builds[1]))
    scheduler.settle(cluster, 2)
    assert reason(cluster) == "RolloutFailed"
    cluster.wait(AFTER)
    scheduler.settle(cluster, 2)
    assert (replicas(cluster), reason(cluster), serves(cluster)) == (
        [0, 0],
        "RolloutFailed",
        "False/Idle",
    )


def test_the_last_pods_with_a_model_are_not_stopped() -> None:
    cluster = idle_serving()
    (volume,) = cluster.each("PersistentVolumeClaim")
    cluster.mark_deleted(volume)
    cluster.wait(AFTER)
    cluster.settle()
    assert replicas(cluster) == [1]


def test_a_lost_deployment_of_an_idle_endpoint_is_created_without_pods() -> None:
    cluster = asleep()
    for deployment in list(cluster.each("Deployment")):
        cluster.remove(deployment)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), reason(cluster)) == ([0], "Idle")


def test_a_crash_before_the_pods_start_does_not_lose_the_wake() -> None:
    cluster = asleep(rollout="FreeGPU")
    cluster.edit(**RETRAIN)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    cluster.wait(60)
    cluster.annotate(wake=cluster.stamp())
    with pytest.raises(Crash):
        cluster.reconcile(die_before=1)
    assert replicas(cluster) == [0]
    cluster.settle()
    assert (replicas(cluster), serves(cluster)) == ([1], "False/Starting")


def test_pods_that_do_not_count_requests_are_reported() -> None:
    cluster = idle_serving()
    cluster.counts_requests = False
    cluster.wait(10 * AFTER)
    cluster.settle()
    assert (replicas(cluster), serves(cluster)) == ([1], "True/Available")
    (condition,) = [each for each in cluster.status["conditions"] if each["type"] == "Serving"]
    assert condition["message"].startswith(
        f"Build {cluster.builds[0]} of revision {cluster.revisions[0]} answers at "
        "http://demo-serve.ns.svc:8000/v1. Its pods do not count requests, so spec.serving.idle "
        "has no effect. "
    )
    cluster.counts_requests = True
    cluster.settle()
    assert replicas(cluster) == [0]
