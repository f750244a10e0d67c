"""A FineTuneJob in every situation that GitOps tools tell apart, with the operator's own status.

Each is brought about in the cluster in memory, by users, kubelets and controllers; nothing of a
status is written by hand.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, copied
from tests.unit.operator.reconcile import plan_steps
from tests.unit.operator.reconcile.serving.test_gpu_handover import serving
from tests.unit.operator.reconcile.serving.test_rollout_failures import candidate, mismatch
from tests.unit.operator.reconcile.test_plan_pending import PODS, event

Situation = Callable[[], Cluster]
DAY = 86_400.0


def after(*done: Callable[[Cluster], object]) -> Situation:
    """Return the situation after some steps, once the operator has looked."""

    def made() -> Cluster:
        cluster = Cluster()
        for step in done:
            step(cluster)
        cluster.settle()
        return cluster

    return made


def unseen(cluster: Cluster) -> None:
    """Edit the job after the operator's last look."""
    cluster.settle()
    cluster.edit(training={"learningRate": 1e-5})


def edited() -> Cluster:
    cluster = Cluster()
    unseen(cluster)
    return cluster


def train_job(cluster: Cluster) -> dict[str, Any]:
    cluster.settle()
    (job,) = (each for each in cluster.each("Job") if "-train-" in each["metadata"]["name"])
    return job


def hold(cluster: Cluster) -> None:
    """Suspend the train Job as Kueue does, which takes its pods away."""
    job = train_job(cluster)
    job["spec"]["suspend"] = True
    for pod in controllers.pods_of(cluster, job):
        cluster.remove(pod)


def give_up(cluster: Cluster) -> None:
    """Suspend the train Job, and finish its Workload, as Kueue does with what cannot start."""
    hold(cluster)
    note = "Workload 'team/job-demo' is declared finished"
    told = event(train_job(cluster), "FinishedWorkload", note, cluster.stamp())
    cluster.events.append({**told, "type": "Normal"})


def wait(seconds: float) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.wait(seconds)


def stuck(cause: str) -> Callable[[Cluster], None]:
    """Let the stage pod be kept from starting."""

    def step(cluster: Cluster) -> None:
        cluster.settle()
        controllers.sync(cluster)
        controllers.pod_of_stage(cluster, "prepare")["status"] = copied(PODS[cause])
        cluster.settle()

    return step


def lose_endpoint(cluster: Cluster) -> None:
    """Let the serving pod's container die and be started again."""
    pod = controllers.pod_of_stage(cluster, "serve")
    pod["status"] = {"phase": "Pending"}
    cluster.touch(pod)
    controllers.sync(cluster)
    cluster.settle()


def failed_candidate() -> Cluster:
    """Merge again, beside a build that serves, and let what comes out not agree."""
    cluster = serving(2)
    mismatch(cluster, candidate(cluster))
    scheduler.settle(cluster, 2)
    return cluster


BACKOFF = plan_steps.edit(runPolicy={"backoffLimit": 0})

SITUATIONS: Mapping[str, Situation] = {
    "unobserved": Cluster,
    "edited": edited,
    "preparing": after(),
    "training": after(plan_steps.STAGED, plan_steps.running("train")),
    "merging": after(plan_steps.STAGED, plan_steps.TRAINED),
    "starting": after(plan_steps.STAGED, plan_steps.TRAINED, plan_steps.MERGED),
    "queued": after(plan_steps.STAGED, hold, wait(7 * DAY)),
    "preempted": after(plan_steps.STAGED, plan_steps.running("train"), hold, wait(DAY)),
    "failed-to-start": after(plan_steps.STAGED, give_up),
    "suspended": after(plan_steps.STAGED, plan_steps.running("train"), plan_steps.SUSPEND),
    "suspended-before-it-began": after(plan_steps.SUSPEND),
    "secret-missing": after(stuck("SecretMissing")),
    "secret-missing-for-long": after(stuck("SecretMissing"), wait(601)),
    "unschedulable-for-long": after(stuck("Unschedulable"), wait(7 * DAY)),
    "invalid-spec": after(plan_steps.edit(training={"advanced": {"microBatchSize": 3}})),
    "dataset-invalid": after(
        plan_steps.run(
            "prepare", 65, controllers.message("prepare", "failed", reason="DatasetInvalid")
        )
    ),
    "cuda-out-of-memory": after(
        plan_steps.STAGED,
        plan_steps.run(
            "train", 80, controllers.message("train", "failed", reason="CUDAOutOfMemory")
        ),
    ),
    "budget-exceeded": after(
        plan_steps.STAGED,
        plan_steps.run(
            "train", 85, controllers.message("train", "failed", reason="BudgetExceeded")
        ),
    ),
    "retries-exhausted": after(BACKOFF, plan_steps.STAGED, plan_steps.run("train", 1, "")),
    "completed": after(
        plan_steps.NO_SERVING, plan_steps.STAGED, plan_steps.TRAINED, plan_steps.MERGED
    ),
    "serving": after(plan_steps.run_all),
    "serving-and-suspended": after(plan_steps.run_all, plan_steps.SUSPEND),
    "endpoint-lost": after(plan_steps.run_all, lose_endpoint, wait(60)),
    "endpoint-down": after(plan_steps.run_all, lose_endpoint, wait(DAY)),
    "candidate-failed": failed_candidate,
}


def job_in(situation: str) -> dict[str, Any]:
    """Return the FineTuneJob of a situation, as the API server would give it out."""
    job: dict[str, Any] = copied(SITUATIONS[situation]().present_job())
    return job
