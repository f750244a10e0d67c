"""A build that does not come into service: what is done about it, and what people read."""

from collections.abc import Callable

import pytest
from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing
from tests.unit.operator.reconcile import plan_steps
from tests.unit.operator.reconcile.serving.test_gpu_handover import (
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
    "CrashLoopBackOff": (crash, "container vllm of pod "),
    "ProgressDeadlineExceeded": (overdue, "no pod was ready 2400 s after it was given a node"),
}


def candidate(cluster: Cluster) -> Thing:
    """Merge again and return the new build's pod, which has a GPU of its own."""
    cluster.edit(**REMERGE)
    finish_stages(cluster, 2, "merge")
    cluster.settle()
    controllers.sync(cluster)
    return scheduler.pod_of(cluster, "serve", cluster.builds[1])


def loading() -> Cluster:
    """A job whose first endpoint loads the model."""
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    controllers.sync(cluster)
    assert (reason(cluster), replicas(cluster)) == ("Starting", [1])
    return cluster


@pytest.mark.parametrize("cause", FATES)
def test_a_failed_candidate_is_stopped_and_the_old_build_goes_on(cause: str) -> None:
    fate, said = FATES[cause]
    cluster = serving(2)
    fate(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    ready = cluster.status["conditions"][0]
    assert (ready["reason"], serves(cluster)) == ("RolloutFailed", "True/Available")
    for part in (cause, said, f"build {cluster.builds[0]} goes on serving"):
        assert part in ready["message"]
    assert (selected(cluster), replicas(cluster)) == (cluster.builds[0], [1, 0])
    scheduler.settle(cluster, 2)
    assert replicas(cluster) == [1, 0], "nothing tries again by itself"


@pytest.mark.parametrize("cause", FATES)
def test_an_edit_tries_again(cause: str) -> None:
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
def test_without_an_old_build_the_cause_is_the_reason(cause: str) -> None:
    cluster = loading()
    FATES[cause][0](cluster, scheduler.pod_of(cluster, "serve"))
    scheduler.settle(cluster, 1)
    ready = cluster.status["conditions"][0]
    assert ready["reason"] == cause
    assert "nothing is served" in ready["message"]
    assert replicas(cluster) == [0]
    assert "False" in serves(cluster)


@pytest.mark.parametrize("cause", FATES)
def test_a_first_build_that_failed_takes_no_gpu_from_the_next(cause: str) -> None:
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
def test_a_selector_changed_by_hand_is_put_right_while_the_next_build_comes(
    selector: Thing | None,
) -> None:
    cluster = serving(1)
    first = selected(cluster)
    cluster.edit(**REMERGE)
    cluster.settle()
    changed_by_hand(cluster, selector)
    assert (selected(cluster), replicas(cluster)) == (first, [1])


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_selector_changed_by_hand_stops_no_endpoint_of_a_paused_job(
    selector: Thing | None,
) -> None:
    cluster = serving(1)
    first = selected(cluster)
    cluster.edit(suspend=True)
    cluster.settle()
    changed_by_hand(cluster, selector)
    assert (selected(cluster), replicas(cluster)) == (first, [1])


@pytest.mark.parametrize("cause", FATES)
def test_a_first_build_that_fails_after_an_edit_leaves_its_gpu_to_the_training(cause: str) -> None:
    cluster = loading()
    pod = scheduler.pod_of(cluster, "serve")
    cluster.edit(**RETRAIN)
    cluster.settle()
    FATES[cause][0](cluster, pod)
    finish_stages(cluster, 1, "prepare")
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("Training", [0])


def test_a_candidate_that_failed_is_not_believed_when_it_is_selected_by_hand() -> None:
    cluster = serving(2)
    mismatch(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    old, new = cluster.builds
    changed_by_hand(cluster, {naming.JOB: "demo", naming.STAGE: "serve", naming.BUILD: new})
    scheduler.settle(cluster, 2)
    assert (selected(cluster), replicas(cluster)) == (old, [1, 0])


def test_a_pause_stops_a_first_endpoint_that_an_edit_has_passed_over() -> None:
    cluster = loading()
    cluster.edit(suspend=True, **RETRAIN)
    scheduler.settle(cluster, 1)
    assert (reason(cluster), replicas(cluster)) == ("SuspendedByUser", [0])
    cluster.edit(suspend=False)
    scheduler.settle(cluster, 1)
    assert (replicas(cluster), serves(cluster)) == ([1], "True/Available")


def test_scaling_does_not_try_a_failed_build_again() -> None:
    """An autoscaler that moves the old build's replicas must not start the failed one each time."""
    cluster = serving(2)
    crash(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    cluster.edit(serving={"replicas": 0})
    scheduler.settle(cluster, 2)
    cluster.edit(serving={"replicas": 1})
    scheduler.settle(cluster, 2)
    assert (reason(cluster), replicas(cluster)) == ("RolloutFailed", [1, 0])


def test_the_failure_of_an_earlier_attempt_is_not_taken_for_the_next_ones() -> None:
    """An edit may come while pods of before it still fail."""
    cluster = serving(2)
    crash(cluster, candidate(cluster))
    cluster.edit(serving={"maxModelLen": 2048})
    cluster.settle()
    assert reason(cluster) != "RolloutFailed"
    scheduler.settle(cluster, 2)
    assert (reason(cluster), selected(cluster)) == ("Serving", cluster.builds[1])


def test_two_crashes_may_be_chance() -> None:
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


def test_what_has_served_is_not_stopped_when_it_is_down() -> None:
    cluster = serving(1)
    scheduler.crash(cluster, scheduler.pod_of(cluster, "serve"), 5)
    controllers.sync(cluster)
    cluster.settle()
    assert (reason(cluster), replicas(cluster)) == ("CrashLoopBackOff", [1])
    assert serves(cluster) == "False/NotAvailable"


QUOTA = 'pods "demo-x" is forbidden: exceeded quota: gpu, requested: 1'
POLICY = 'pods "demo-x" is forbidden: violates PodSecurity "restricted:latest"'


def refuse_pods(cluster: Cluster, deployment: Thing, note: str) -> None:
    """Take the pods of a Deployment away and say, as its controller does, that it gets no other."""
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
    """Return reason and message of Ready, and which of Reconciling and Stalled is there."""
    conditions = {each["type"]: each for each in cluster.status["conditions"]}
    kind = "Stalled" if "Stalled" in conditions else "Reconciling"
    assert kind in conditions
    return conditions["Ready"]["reason"], conditions["Ready"]["message"], kind


@pytest.mark.parametrize(("note", "cause"), [(QUOTA, "QuotaExceeded"), (POLICY, "FailedCreate")])
def test_a_starting_build_that_can_create_no_pod(note: str, cause: str) -> None:
    cluster = Cluster()
    finish_stages(cluster, 1, "prepare", "train", "merge")
    cluster.settle()
    (deployment,) = cluster.each("Deployment")
    refuse_pods(cluster, deployment, note)
    cluster.wait(600)
    cluster.settle()
    assert ready(cluster)[::2] == (cause, "Reconciling")
    assert ready(cluster)[1].startswith(f"{note}; ")
    cluster.wait(1)
    cluster.settle()
    assert ready(cluster)[::2] == (cause, "Stalled")
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Serving", "it recovers by itself"


def test_a_build_that_served_and_can_create_no_pod_is_down() -> None:
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
    assert f"down for more than {seconds} s: {QUOTA}; " in ready(cluster)[1]
    assert serves(cluster) == "False/NotAvailable"
    scheduler.settle(cluster, 1)
    assert reason(cluster) == "Serving", "it recovers by itself"


def test_a_build_that_is_gone_back_to_has_to_show_itself_again() -> None:
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


def test_a_volume_that_goes_and_is_held_by_what_serves_is_waited_for_by_nobody() -> None:
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
