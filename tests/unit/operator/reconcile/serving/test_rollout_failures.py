"""A build that fails to serve: the operator's reaction, reason and message."""

from collections.abc import Callable

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile import plan_steps
from tests.support.reconcile.serving_steps import (
    REMERGE,
    RETRAIN,
    candidate,
    finish_stages,
    reason,
    replicas,
    selected,
    serves,
    serving,
)

from finetune_operator.objects import naming

Fate = Callable[[Cluster, Thing], None]


def mismatch(cluster: Cluster, pod: Thing) -> None:
    scheduler.mismatch(cluster, pod)


def crash(cluster: Cluster, pod: Thing) -> None:
    scheduler.crash(cluster, pod, 3)


def overdue(cluster: Cluster, pod: Thing) -> None:
    """Let a pod load for so long that its Deployment's deadline passes."""
    pod["status"] = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastTransitionTime": cluster.stamp(),
            }
        ],
    }
    cluster.touch(pod)
    build = pod["metadata"]["labels"][naming.BUILD]
    deployment = cluster.get("Deployment", f"demo-{build}")
    assert deployment
    cluster.wait(deployment["spec"]["progressDeadlineSeconds"] + 1)
    deployment["status"]["conditions"] = [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    ]
    cluster.touch(deployment)


FATES = {
    "VerificationFailed": (mismatch, "distance 0.31, tolerance 0.02"),
    "AccessDenied": (scheduler.invalid_key, "a line break"),
    "CrashLoopBackOff": (crash, "Container vllm of pod "),
    "ProgressDeadlineExceeded": (
        overdue,
        "2400 s after the newest pod was scheduled, no pod was ready",
    ),
}


def loading() -> Cluster:
    """Return a cluster whose first endpoint loads the model."""
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    controllers.sync(cluster)
    assert (reason(cluster), replicas(cluster)) == ("Starting", [1])
    return cluster


@pytest.mark.parametrize("cause", FATES)
def test_a_failed_candidate_is_scaled_to_zero_and_the_stable_build_serves(cause: str) -> None:
    fate, said = FATES[cause]
    cluster = serving(2)
    fate(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    ready = cluster.status["conditions"][0]
    assert (ready["reason"], serves(cluster)) == ("RolloutFailed", "True/Available")
    for part in (
        cause,
        said,
        f"Build {cluster.builds[0]} of revision {cluster.revisions[0]} continues to serve",
    ):
        assert part in ready["message"]
    assert (selected(cluster), replicas(cluster)) == (cluster.builds[0], [1, 0])
    scheduler.settle(cluster, 2)
    assert replicas(cluster) == [1, 0], "nothing is retried without an edit"


@pytest.mark.parametrize("cause", FATES)
def test_a_serving_edit_retries_a_failed_candidate(cause: str) -> None:
    cluster = serving(2)
    FATES[cause][0](cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    cluster.edit(serving={"maxModelLen": 2048})
    scheduler.settle(cluster, 2)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])
    attempts = cluster.status["revisions"][0]["stages"]
    (attempt,) = [each for each in attempts if each.get("build") == cluster.builds[1]][1:]
    assert (attempt["attempt"], attempt["outcome"]) == (2, "Completed")


@pytest.mark.parametrize("cause", FATES)
def test_without_a_stable_build_the_cause_is_the_reason(cause: str) -> None:
    cluster = loading()
    FATES[cause][0](cluster, scheduler.pod_of(cluster, "serve"))
    scheduler.settle(cluster, 1)
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == cause
    assert "No build is served" in ready["message"]
    assert replicas(cluster) == [0]
    assert "False" in serves(cluster)


@pytest.mark.parametrize("cause", FATES)
def test_a_failed_first_build_holds_no_gpu(cause: str) -> None:
    cluster = loading()
    FATES[cause][0](cluster, scheduler.pod_of(cluster, "serve"))
    scheduler.settle(cluster, 1)
    cluster.edit(**REMERGE)
    cluster.settle()
    assert replicas(cluster) == [0]
    finish_stages(cluster, 1, "merge")
    scheduler.settle(cluster, 1)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])


def test_a_pause_stops_the_first_endpoint_while_it_loads() -> None:
    cluster = loading()
    cluster.edit(suspend=True)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("SuspendedByUser", [0])
    cluster.edit(suspend=False)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Serving", [1])
    cluster.edit(suspend=True)
    scheduler.settle(cluster, 1)
    state = (reason(cluster), replicas(cluster))
    assert state == ("Serving", [1]), "it serves by now"


SELECTORS = [{"app": "other"}, {naming.JOB: "demo", naming.BUILD: "0badbeef"}, None]


def changed_by_hand(cluster: Cluster, selector: Thing | None) -> None:
    service = cluster.get("Service", "demo-serve")
    assert service
    service["spec"].pop("selector")
    service["spec"] |= {} if selector is None else {"selector": selector}
    cluster.touch(service)
    cluster.settle()


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_changed_externally_is_corrected_during_a_rollout(
    selector: Thing | None,
) -> None:
    cluster = serving(1)
    first = selected(cluster)
    cluster.edit(**REMERGE)
    cluster.settle()
    changed_by_hand(cluster, selector)
    assert (selected(cluster), replicas(cluster)) == (first, [1])


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_changed_externally_does_not_stop_a_suspended_jobs_endpoint(
    selector: Thing | None,
) -> None:
    cluster = serving(1)
    first = selected(cluster)
    cluster.edit(suspend=True)
    cluster.settle()
    changed_by_hand(cluster, selector)
    assert (selected(cluster), replicas(cluster)) == (first, [1])


@pytest.mark.parametrize("cause", FATES)
def test_a_first_build_that_fails_after_an_edit_releases_its_gpu(cause: str) -> None:
    cluster = loading()
    pod = scheduler.pod_of(cluster, "serve")
    cluster.edit(**RETRAIN)
    cluster.settle()
    FATES[cause][0](cluster, pod)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])


def test_a_failed_candidate_selected_externally_is_not_served() -> None:
    cluster = serving(2)
    mismatch(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    old, new = cluster.builds
    changed_by_hand(cluster, {naming.JOB: "demo", naming.STAGE: "serve", naming.BUILD: new})
    scheduler.settle(cluster, 2)
    assert (selected(cluster), replicas(cluster)) == (old, [1, 0])


def test_a_pause_stops_a_loading_first_build_after_an_edit() -> None:
    cluster = loading()
    cluster.edit(suspend=True, **RETRAIN)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("SuspendedByUser", [0])
    cluster.edit(suspend=False)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), serves(cluster)) == ([1], "True/Available")


def test_scaling_does_not_retry_a_failed_build() -> None:
    """An autoscaler that scales the stable build must not restart the failed one."""
    cluster = serving(2)
    crash(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 2)
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 2)
    assert (reason(cluster), replicas(cluster)) == ("RolloutFailed", [1, 0])


def test_the_failure_of_an_earlier_attempt_does_not_count_for_the_next() -> None:
    """Pods from before an edit may still fail after it."""
    cluster = serving(2)
    crash(cluster, candidate(cluster))
    cluster.edit(serving={"maxModelLen": 2048})
    cluster.settle()
    assert reason(cluster) != "RolloutFailed"
    scheduler.settle(cluster, 2)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])


def test_two_crashes_do_not_fail_a_build() -> None:
    cluster = serving(2)
    pod = candidate(cluster)
    scheduler.crash(cluster, pod, 2)
    cluster.settle()
    assert (reason(cluster), replicas(cluster)) == ("CrashLoopBackOff", [1, 1])


def test_a_pod_without_a_node_has_not_failed() -> None:
    cluster = serving(2)
    pod = candidate(cluster)
    overdue(cluster, pod)
    pod["status"] = {"phase": "Pending"}
    scheduler.refuse(cluster, pod)
    cluster.settle()
    assert (reason(cluster), replicas(cluster)[1]) == ("Unschedulable", 1)


def test_a_build_that_served_is_not_stopped_when_it_is_down() -> None:
    cluster = serving(1)
    scheduler.crash(cluster, scheduler.pod_of(cluster, "serve"), 5)
    controllers.sync(cluster)
    cluster.settle()
    assert (reason(cluster), replicas(cluster)) == ("CrashLoopBackOff", [1])
    assert serves(cluster) == "False/NotAvailable"


QUOTA = 'pods "demo-x" is forbidden: exceeded quota: gpu, requested: 1'
POLICY = 'pods "demo-x" is forbidden: violates PodSecurity "restricted:latest"'


def refuse_pods(cluster: Cluster, deployment: Thing, note: str) -> None:
    """Remove the pods of a Deployment and report, as its controller does, a rejected pod."""
    for pod in controllers.pods_of(cluster, deployment):
        cluster.remove(pod)
    deployment["status"] = {
        "observedGeneration": deployment["metadata"]["generation"],
        "conditions": [
            {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreate",
                "message": note,
                "lastTransitionTime": cluster.stamp(),
            }
        ],
    }
    cluster.touch(deployment)


def ready(cluster: Cluster) -> tuple[str, str, str]:
    """Return reason and message of Ready, and which of Reconciling and Stalled is present."""
    conditions = {each["type"]: each for each in cluster.status["conditions"]}
    kind = "Stalled" if "Stalled" in conditions else "Reconciling"
    assert kind in conditions
    return conditions["Ready"]["reason"], conditions["Ready"]["message"], kind


@pytest.mark.parametrize(("note", "cause"), [(QUOTA, "QuotaExceeded"), (POLICY, "FailedCreate")])
def test_a_starting_build_whose_pod_is_rejected(note: str, cause: str) -> None:
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    (deployment,) = cluster.each("Deployment")
    refuse_pods(cluster, deployment, note)
    cluster.wait(600)
    cluster.settle()
    assert ready(cluster)[::2] == (cause, "Reconciling")
    assert ready(cluster)[1].endswith(f" API server: {note}.")
    cluster.wait(1)
    cluster.settle()
    assert ready(cluster)[::2] == (cause, "Stalled")
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Serving", "it recovers by itself"


def test_a_build_that_served_and_whose_pod_is_rejected_is_down() -> None:
    cluster = serving(1)
    cluster.wait(86_400)
    (deployment,) = cluster.each("Deployment")
    refuse_pods(cluster, deployment, QUOTA)
    cluster.settle()
    assert ready(cluster)[::2] == ("QuotaExceeded", "Reconciling")
    seconds = deployment["spec"]["progressDeadlineSeconds"]
    cluster.wait(seconds)
    cluster.settle()
    assert ready(cluster)[::2] == ("QuotaExceeded", "Stalled")
    cluster.wait(1)
    cluster.settle()
    assert ready(cluster)[::2] == ("EndpointDown", "Stalled")
    message = ready(cluster)[1]
    assert f"down for more than {seconds} s. A ResourceQuota of the namespace is " in message
    assert message.endswith(f" API server: {QUOTA}.")
    assert serves(cluster) == "False/NotAvailable"
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Serving", "it recovers by itself"


def test_an_edit_back_to_an_earlier_build_verifies_it_again() -> None:
    cluster = serving(2)
    candidate(cluster)
    scheduler.settle(cluster, 2)
    assert selected(cluster) == cluster.builds[1]
    cluster.edit(merge=None)
    cluster.settle()
    controllers.sync(cluster)
    mismatch(cluster, scheduler.pod_of(cluster, "serve", cluster.builds[0]))
    scheduler.settle(cluster, 2)
    assert (reason(cluster), selected(cluster)) == ("RolloutFailed", cluster.builds[1])


def test_a_terminating_volume_that_serving_pods_mount_stalls_the_job() -> None:
    cluster = serving(1)
    plan_steps.delete(naming.VOLUME, "demo-R")(cluster)
    cluster.edit(**REMERGE)
    scheduler.settle(cluster, 1)
    assert ready(cluster)[::2] == ("VolumeLost", "Stalled")
    assert "spec.serving.replicas to 0" in ready(cluster)[1]
    assert (serves(cluster), replicas(cluster)) == ("True/Available", [1])
    cluster.edit(serving={"replicas": 0}, rerun="again")
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Preparing"
