"""A FineTuneJob in each situation that GitOps tools distinguish, with the status of the operator.

Each situation results from actions of users, kubelets and controllers in the in-memory cluster; no
status is written by hand.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, copied
from tests.support.reconcile import plan_steps
from tests.support.reconcile.pending_pods import PODS, event
from tests.support.reconcile.serving_steps import candidate, serving

Situation = Callable[[], Cluster]
DAY = 86_400.0


def after(*steps: Callable[[Cluster], object]) -> Situation:
    """Return the situation after some steps, when the operator has reconciled the job."""

    def made() -> Cluster:
        cluster = Cluster()
        for step in steps:
            step(cluster)
        cluster.settle()
        return cluster

    return made


def edit_after_reconcile(cluster: Cluster) -> None:
    """Edit the job after the last reconcile."""
    cluster.settle()
    cluster.edit(training={"learningRate": 1e-5})


def edited() -> Cluster:
    cluster = Cluster()
    edit_after_reconcile(cluster)
    return cluster


def train_job(cluster: Cluster) -> dict[str, Any]:
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    return job


def suspend_by_queue(cluster: Cluster) -> None:
    """Suspend the train Job, which removes its pods, as Kueue does."""
    job = train_job(cluster)
    job["spec"]["suspend"] = True
    for pod in controllers.pods_of(cluster, job):
        cluster.remove(pod)


def finish_workload(cluster: Cluster) -> None:
    """Suspend the train Job and finish its Workload, as Kueue does if the Job cannot start."""
    suspend_by_queue(cluster)
    note = "Workload 'team/job-demo' is declared finished"
    finished = event(train_job(cluster), "FinishedWorkload", note, cluster.stamp())
    cluster.events.append({**finished, "type": "Normal"})


def wait(seconds: float) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.wait(seconds)


def block_prepare_pod(cause: str) -> Callable[[Cluster], None]:
    """Give the prepare pod a status in which it cannot start."""

    def step(cluster: Cluster) -> None:
        cluster.settle()
        controllers.sync(cluster)
        controllers.pod_of_stage(cluster, "prepare")["status"] = copied(PODS[cause])
        cluster.settle()

    return step


def lose_endpoint(cluster: Cluster) -> None:
    """Restart the container of the serving pod."""
    pod = controllers.pod_of_stage(cluster, "serve")
    pod["status"] = {"phase": "Pending"}
    cluster.touch(pod)
    controllers.sync(cluster)
    cluster.settle()


def failed_candidate() -> Cluster:
    """Merge again while a build is serving, and fail the verification of the new build."""
    cluster = serving(2)
    scheduler.mismatch(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    return cluster


def stop_without_requests(cluster: Cluster) -> None:
    """Let the endpoint become idle."""
    cluster.edit(serving={"idle": {"afterSeconds": 600}})
    cluster.settle()
    cluster.wait(600)
    cluster.settle()
    controllers.sync(cluster)
    cluster.settle()


BACKOFF = plan_steps.edit(runPolicy={"backoffLimit": 0})

SITUATIONS: Mapping[str, Situation] = {
    "unobserved": Cluster,
    "edited": edited,
    "preparing": after(),
    "training": after(plan_steps.PREPARED, plan_steps.running("train")),
    "merging": after(plan_steps.PREPARED, plan_steps.TRAINED),
    "starting": after(plan_steps.PREPARED, plan_steps.TRAINED, plan_steps.MERGED),
    "queued": after(plan_steps.PREPARED, suspend_by_queue, wait(7 * DAY)),
    "preempted": after(
        plan_steps.PREPARED, plan_steps.running("train"), suspend_by_queue, wait(DAY)
    ),
    "failed-to-start": after(plan_steps.PREPARED, finish_workload),
    "suspended": after(plan_steps.PREPARED, plan_steps.running("train"), plan_steps.SUSPEND),
    "suspended-before-start": after(plan_steps.SUSPEND),
    "secret-missing": after(block_prepare_pod("SecretMissing")),
    "secret-missing-for-long": after(block_prepare_pod("SecretMissing"), wait(601)),
    "unschedulable-for-long": after(block_prepare_pod("Unschedulable"), wait(7 * DAY)),
    "invalid-spec": after(plan_steps.edit(training={"advanced": {"microBatchSize": 3}})),
    "dataset-invalid": after(
        plan_steps.run(
            "prepare", 65, controllers.message("prepare", "failed", reason="DatasetInvalid")
        )
    ),
    "cuda-out-of-memory": after(
        plan_steps.PREPARED,
        plan_steps.run(
            "train", 80, controllers.message("train", "failed", reason="CUDAOutOfMemory")
        ),
    ),
    "budget-exceeded": after(
        plan_steps.PREPARED,
        plan_steps.run(
            "train", 85, controllers.message("train", "failed", reason="BudgetExceeded")
        ),
    ),
    "retries-exhausted": after(BACKOFF, plan_steps.PREPARED, plan_steps.run("train", 1, "")),
    "completed": after(
        plan_steps.NO_SERVING, plan_steps.PREPARED, plan_steps.TRAINED, plan_steps.MERGED
    ),
    "serving": after(plan_steps.run_all),
    "serving-and-suspended": after(plan_steps.run_all, plan_steps.SUSPEND),
    "serving-without-requests": after(plan_steps.run_all, stop_without_requests),
    "endpoint-lost": after(plan_steps.run_all, lose_endpoint, wait(60)),
    "endpoint-down": after(plan_steps.run_all, lose_endpoint, wait(DAY)),
    "candidate-failed": failed_candidate,
}


def job_in(situation: str) -> dict[str, Any]:
    """Return the FineTuneJob in a situation, as the API server would return it.

    Without the frozen configurations: they are long, and no script for Argo CD reads them.
    """
    job: dict[str, Any] = copied(SITUATIONS[situation]().present_job())
    for revision in job["status"].get("revisions", ()):
        del revision["frozen"]
    return job
