"""Restarts: counted by cause over all attempts, limited in total, with more memory if needed."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing
from tests.support.reconcile.plan_cases import Case, expected, run_case
from tests.support.reconcile.plan_steps import (
    PREPARED,
    RESUME,
    SUSPEND,
    TRAINED,
    delete,
    edit,
    run,
    running,
    settle,
    stop,
    sync,
)

from finetune_api.contracts.exitcodes import ExitCode
from finetune_operator.manifests.jobs import grace_seconds, more_memory
from finetune_operator.objects.naming import ATTEMPT
from finetune_operator.types import PodProgress

TRAINING = "Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-"
MERGING = "Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-"
OUT_OF_MEMORY: dict[str, Any] = {"code": 137, "text": "", "reason": "OOMKilled"}
TRANSIENT = controllers.message("train", "failed", reason="Transient")


def evict(cluster: Cluster) -> None:
    """Lose the train pod to its node; its Job starts another, which runs."""
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.evict(cluster, pod)
    controllers.stop(cluster, pod)
    for _ in range(3):
        controllers.sync(cluster)
    cluster.settle()
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()


def fail(cluster: Cluster) -> None:
    """Let the train pod fail transiently; its Job starts another, which runs."""
    controllers.finish(
        cluster, controllers.pod_of_stage(cluster, "train"), ExitCode.TRANSIENT, TRANSIENT
    )
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()


def preempt(cluster: Cluster) -> None:
    """Suspend the train Job as a queue does, and admit it again."""
    (job,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    controllers.suspend(cluster, job)
    cluster.settle()
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "train"))
    controllers.sync(cluster)
    cluster.settle()
    controllers.admit(cluster, job)
    controllers.sync(cluster)
    controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    cluster.settle()


def counts(cluster: Cluster) -> tuple[int, ...]:
    cluster.settle()
    training = cluster.status["training"]
    assert training["restarts"] == sum(
        training.get(name, 0) for name in ("failures", "disruptions", "preemptions")
    )
    return tuple(training.get(name, 0) for name in ("failures", "disruptions", "preemptions"))


def at_training(**spec: Any) -> Cluster:
    cluster = Cluster()
    cluster.edit(**spec)
    for step in (PREPARED, running("train")):
        step(cluster)
    return cluster


def test_restarts_are_counted_by_cause() -> None:
    cluster = at_training()
    assert counts(cluster) == (0, 0, 0)
    evict(cluster)
    assert counts(cluster) == (0, 1, 0)
    fail(cluster)
    assert counts(cluster) == (1, 1, 0)
    evict(cluster)
    assert counts(cluster) == (1, 2, 0)
    preempt(cluster)
    assert counts(cluster) == (1, 2, 1)
    evict(cluster)
    assert counts(cluster) == (1, 3, 1)


def test_restarts_are_counted_across_pauses_deletions_and_operator_restarts() -> None:
    cluster = at_training()
    fail(cluster)
    for step in (SUSPEND, stop("train"), RESUME, running("train")):
        step(cluster)
    assert counts(cluster) == (1, 0, 0), "a pause is no restart"
    evict(cluster)
    for step in (delete("Job", "demo-R-train-2"), settle, stop("train"), running("train")):
        step(cluster)
    assert counts(cluster) == (1, 2, 0)
    assert cluster.status["training"]["attempt"] == 3


def test_restarts_during_operator_downtime_are_counted_if_visible() -> None:
    cluster = at_training()
    for _ in range(2):
        pod = controllers.pod_of_stage(cluster, "train")
        controllers.finish(cluster, pod, ExitCode.TRANSIENT, TRANSIENT)
        controllers.sync(cluster)
        controllers.start(cluster, controllers.pod_of_stage(cluster, "train"))
    assert counts(cluster) == (2, 0, 0)


def test_restart_counts_belong_to_their_revision() -> None:
    cluster = at_training()
    cluster.wait(77)
    cluster.progress = PodProgress(pod="", global_step=3, max_steps=9, gpu_seconds=77.0)
    cluster.settle()
    evict(cluster)
    cluster.progress = None
    for step in (edit(rerun="a"), settle, stop("train")):
        step(cluster)
    assert "restarts" not in cluster.status.get("training", {})
    cluster.edit(rerun=None)
    assert counts(cluster) == (0, 1, 0)
    assert cluster.status["training"]["gpuSeconds"] == 77


CASES = {
    "disruptions up to maxRestarts are allowed": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1, "backoffLimit": 0}),
            *(PREPARED, running("train"), evict),
        ),
        ready="-Training",
        conditions=TRAINING,
    ),
    "more restarts than maxRestarts stall the job": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1}),
            *(PREPARED, running("train"), evict),
            lambda cluster: lose(cluster),
        ),
        actions=("Delete Job demo-r1-train-1 Foreground",),
        ready="-TooManyRestarts",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
        says="runPolicy.maxRestarts is 1. To resume, raise this limit",
    ),
    "raised maxRestarts resumes a stalled job": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1}),
            *(PREPARED, running("train"), evict, lambda cluster: lose(cluster)),
            *(settle, stop("train"), edit(runPolicy={"maxRestarts": 5})),
        ),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "maxRestarts raised to exactly the counted restarts resumes the job": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1}),
            *(PREPARED, running("train"), evict, lambda cluster: lose(cluster)),
            *(settle, stop("train"), edit(runPolicy={"maxRestarts": 2})),
            *(settle, running("train")),
        ),
        ready="-Training",
        conditions=TRAINING,
    ),
    "unrelated edit does not start an attempt above maxRestarts": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1}),
            *(PREPARED, running("train"), evict, lambda cluster: lose(cluster)),
            *(settle, stop("train"), edit(placement={"nodeSelector": {"zone": "b"}})),
        ),
        ready="-TooManyRestarts",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
        says="restarted 2 times, but spec.runPolicy.maxRestarts is 1. To resume, raise this limit "
        "to at least 2.",
    ),
    "repeatedly deleted Job counts towards maxRestarts": Case(
        given=(
            edit(runPolicy={"maxRestarts": 1}),
            *(PREPARED, running("train"), delete("Job", "demo-R-train-1"), settle, stop("train")),
            *(running("train"), delete("Job", "demo-R-train-2"), settle, stop("train")),
        ),
        ready="-TooManyRestarts",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
    ),
    "merge that runs out of memory is stopped": Case(
        given=(PREPARED, TRAINED, run("merge", **OUT_OF_MEMORY)),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="-WaitingForPod",
        conditions=MERGING,
    ),
    "merge that ran out of memory gets twice the memory once": Case(
        given=(PREPARED, TRAINED, run("merge", **OUT_OF_MEMORY), settle, stop("merge")),
        actions=("Create Job demo-r1-merge-2",),
        ready="-Merging",
        conditions=MERGING,
    ),
    "failed merge that ran out of memory gets twice the memory": Case(
        given=(
            edit(runPolicy={"backoffLimit": 0}),
            *(PREPARED, TRAINED, run("merge", **OUT_OF_MEMORY)),
        ),
        actions=("Create Job demo-r1-merge-2",),
        ready="-Merging",
        conditions=MERGING,
    ),
    "merge that runs out of the doubled memory fails": Case(
        given=(
            edit(runPolicy={"backoffLimit": 0}),
            *(PREPARED, TRAINED, run("merge", **OUT_OF_MEMORY), run("merge", **OUT_OF_MEMORY)),
        ),
        ready="-OutOfMemory",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged- Serving-",
        says="Raise spec.resources.merge.limits.memory",
    ),
    "merge that runs out of the doubled memory fails before its Job retries": Case(
        given=(
            *(PREPARED, TRAINED, run("merge", **OUT_OF_MEMORY), settle, stop("merge")),
            run("merge", **OUT_OF_MEMORY),
        ),
        actions=("Delete Job demo-r1-merge-2 Foreground",),
        ready="-OutOfMemory",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged- Serving-",
        says="Raise spec.resources.merge.limits.memory",
    ),
    "training that runs out of memory fails": Case(
        given=(
            edit(runPolicy={"backoffLimit": 0}),
            *(PREPARED, run("train", **OUT_OF_MEMORY)),
        ),
        ready="-OutOfMemory",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
    ),
}


def lose(cluster: Cluster) -> None:
    """Lose the train pod to its node, and let another wait, without a reconcile."""
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.evict(cluster, pod)
    controllers.stop(cluster, pod)
    for _ in range(3):
        controllers.sync(cluster)


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_expected(name: str) -> None:
    case = CASES[name]
    planned, text = run_case(Cluster(), case)
    assert text == expected(case)
    ready = next(each for each in planned.status["conditions"] if each["type"] == "Ready")
    assert case.says in ready["message"]


def memory_of(cluster: Cluster) -> tuple[str, str, str]:
    """Return attempt, request and limit of the newest merge Job."""
    cluster.settle()
    job = max(
        (each for each in cluster.each("Job") if "-merge-" in each["metadata"]["name"]),
        key=lambda each: int(each["metadata"]["labels"][ATTEMPT]),
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    resources = container["resources"]
    return (
        job["metadata"]["labels"][ATTEMPT],
        resources.get("requests", {}).get("memory", ""),
        resources["limits"]["memory"],
    )


def test_the_retry_has_twice_the_memory_through_a_pause_until_the_spec_says_more() -> None:
    cluster = Cluster(spec={**Cluster().spec, "runPolicy": {"backoffLimit": 0}})
    for step in (PREPARED, TRAINED, running("merge")):
        step(cluster)
    assert memory_of(cluster) == ("1", "2Gi", "4Gi")
    pod = controllers.pod_of_stage(cluster, "merge")
    controllers.finish(cluster, pod, 137, "", "OOMKilled")
    sync(cluster)
    assert memory_of(cluster) == ("2", "8Gi", "8Gi")
    for step in (running("merge"), SUSPEND, stop("merge"), RESUME):
        step(cluster)
    assert memory_of(cluster) == ("3", "8Gi", "8Gi")
    run("merge", **OUT_OF_MEMORY)(cluster)
    cluster.settle()
    cluster.edit(resources={"merge": {"limits": {"memory": "20Gi"}}})
    attempt, _, limit = memory_of(cluster)
    assert (attempt, limit) == ("4", "20Gi")


@pytest.mark.parametrize(
    ("limit", "doubled"),
    [("4Gi", "8Gi"), ("512Mi", "1024Mi"), ("1.5Gi", "3.0Gi"), ("2000000000", "4000000000")],
)
def test_more_memory_is_twice_the_limit(limit: str, doubled: str) -> None:
    cluster = Cluster(
        spec={**Cluster().spec, "resources": {"merge": {"limits": {"memory": limit}}}}
    )
    assert more_memory(wanted(cluster)) == doubled
    cluster.edit(resources={"merge": {"limits": {"memory": None, "cpu": "1"}}})
    assert more_memory(wanted(cluster)) is None


def wanted(cluster: Cluster) -> Any:
    from finetune_operator.revisions.ledger import Ledger
    from finetune_operator.revisions.target import resolve_target

    return resolve_target(
        cluster.present_job(), Ledger(), cluster.config
    ).resolved.spec.resources.merge


@pytest.mark.parametrize(
    ("step", "seconds"),
    [(None, 120), (0.8, 120), (30.0, 120), (31.2, 124), (100.0, 260), (1e9, 1800)],
)
def test_the_grace_period_has_room_for_a_step_and_a_checkpoint(
    step: float | None, seconds: int
) -> None:
    assert grace_seconds(step) == seconds


def test_the_next_pods_grace_period_is_made_of_the_measured_step_time() -> None:
    cluster = at_training()
    cluster.progress = PodProgress(pod="", global_step=10, max_steps=30, eta_seconds=2000.0)
    for step in (settle, SUSPEND, stop("train")):
        step(cluster)
    cluster.progress = None
    assert cluster.status["training"]["stepSeconds"] == "100.0"
    RESUME(cluster)
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if not controllers.ended(each))
    assert pod_spec(job)["terminationGracePeriodSeconds"] == 260
    for stage in ("train", "merge"):
        controllers.run(cluster, stage)
    merge = cluster.get("Job", f"demo-{cluster.status['revision']}-merge-1")
    assert merge is not None
    assert pod_spec(merge)["terminationGracePeriodSeconds"] == 120


def pod_spec(job: Thing) -> Thing:
    spec: Thing = job["spec"]["template"]["spec"]
    return spec


def test_a_preempted_pod_that_exits_with_0_is_a_disruption() -> None:
    """Its Job is Complete although training has not completed."""
    cluster = Cluster()
    PREPARED(cluster)
    running("train")(cluster)
    pod = controllers.pod_of_stage(cluster, "train")
    controllers.evict(cluster, pod)
    controllers.finish(cluster, pod, 0, controllers.message("train", "stopped"))
    controllers.sync_job(cluster, next(j for j in cluster.each("Job") if "-train-" in name_of(j)))
    cluster.settle()
    training = cluster.status["training"]
    assert (training["restarts"], training.get("failures", 0)) == (1, 0)
    assert training["disruptions"] == 1
    (attempt,) = (s for s in cluster.status["revisions"][0]["stages"] if s["stage"] == "train")
    assert attempt["attempt"] == 2


def name_of(job: Thing) -> str:
    return str(job["metadata"]["name"])
