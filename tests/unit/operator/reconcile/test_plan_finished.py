"""A finished job stays finished, whatever happens to it and its objects."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.plan_cases import Step
from tests.support.reconcile.plan_steps import (
    MERGED,
    NO_MERGE,
    NO_SERVING,
    PREPARED,
    SUSPEND,
    TRAINED,
    edit,
    run_all,
    settle,
    sync,
)
from tests.unit.operator.reconcile.test_plan_edits import upgraded
from tests.unit.operator.reconcile.test_plan_failures import DIVERGED

DECADE = 10 * 365 * 86_400.0


def stopped(cluster: Cluster) -> None:
    """Scale a serving job to 0."""
    run_all(cluster)
    cluster.edit(serving={"replicas": 0})
    cluster.settle()
    controllers.sync(cluster)
    controllers.stop(cluster, controllers.pod_of_stage(cluster, "serve"))
    controllers.sync(cluster)


FINISHED: dict[str, tuple[tuple[Step, ...], str]] = {
    "serving": ((run_all,), "Serving"),
    "made and not to be served": ((NO_SERVING, PREPARED, TRAINED, MERGED), "Completed"),
    "trained and not to be merged": ((NO_MERGE, PREPARED, TRAINED), "Completed"),
    "scaled to nothing": ((stopped,), "ScaledToZero"),
    "paused when there was nothing left to pause": ((run_all, SUSPEND), "Serving"),
    "failed": ((PREPARED, DIVERGED), "LossDiverged"),
}


def jobs_deleted(cluster: Cluster) -> None:
    for job in cluster.each("Job"):
        controllers.delete(cluster, "Job", job["metadata"]["name"], "Foreground")
    controllers.sync(cluster)
    controllers.sync(cluster)
    assert not list(cluster.each("Job"))


def applied_again(cluster: Cluster) -> None:
    """Apply the manifest again, which changes only the metadata."""
    job = cluster.present_job()
    cluster.edit(**job["spec"])
    job["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    cluster.touch(job)


def clock(seconds: float) -> Step:
    return lambda cluster: cluster.wait(seconds)


DISTURBANCES: dict[str, tuple[Step, ...]] = {
    "its Jobs are deleted": (jobs_deleted,),
    "the operator is upgraded": (upgraded,),
    "the manifest is applied again": (applied_again,),
    "the clock jumps ahead": (clock(DECADE),),
    "the clock jumps back": (clock(-DECADE),),
    "all of it": (jobs_deleted, upgraded, applied_again, clock(DECADE), settle, clock(-2 * DECADE)),
    "what keeps the cadence is edited": (edit(training={"advanced": {"saveSteps": 7}}),),
}


def snapshot(cluster: Cluster) -> dict[str, Any]:
    """Return the objects that use a GPU or made the model, and the job's conditions."""
    ready = cluster.status["conditions"][0]
    return {
        "pods": {
            each["metadata"]["uid"] for each in cluster.each("Pod") if controllers.alive(each)
        },
        "deployments": [each["spec"] for each in cluster.list("Deployment")],
        "services": [each["spec"] for each in cluster.list("Service")],
        "volumes": [each["metadata"]["uid"] for each in cluster.list("PersistentVolumeClaim")],
        "said": (ready["status"], ready["reason"], ready["lastTransitionTime"]),
        "model": (cluster.status["revision"], cluster.status["build"]),
        "ledger": cluster.status["revisions"],
    }


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("finished", FINISHED)
def test_a_finished_job_repeats_nothing(finished: str, disturbance: str) -> None:
    cluster = Cluster()
    steps, reason = FINISHED[finished]
    for step in (*steps, settle, sync, settle):
        step(cluster)
    before, jobs = snapshot(cluster), {each["metadata"]["uid"] for each in cluster.each("Job")}
    assert before["said"][1] == reason
    for step in (*DISTURBANCES[disturbance], settle, sync, settle, sync, settle):
        step(cluster)
    assert snapshot(cluster) == before
    assert {each["metadata"]["uid"] for each in cluster.each("Job")} <= jobs
