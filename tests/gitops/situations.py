"""A FineTuneJob in every situation that GitOps tools tell apart, with the operator's own status.

Each is brought about in the cluster in memory, by users, kubelets and controllers; nothing of a
status is written by hand.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.operator.core import gpus, steps, workload
from tests.unit.operator.core.cluster import Cluster, copied
from tests.unit.operator.core.test_plan_pending import PODS, event
from tests.unit.operator.core.test_rollout_failures import candidate, mismatch
from tests.unit.operator.core.test_rollout_gpus import serving

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
    for pod in workload.pods_of(cluster, job):
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
        workload.sync(cluster)
        workload.pod_of_stage(cluster, "stage")["status"] = copied(PODS[cause])
        cluster.settle()

    return step


def lose_endpoint(cluster: Cluster) -> None:
    """Let the serving pod's container die and be started again."""
    pod = workload.pod_of_stage(cluster, "serve")
    pod["status"] = {"phase": "Pending"}
    cluster.touch(pod)
    workload.sync(cluster)
    cluster.settle()


def failed_candidate() -> Cluster:
    """Merge again, beside a build that serves, and let what comes out not agree."""
    cluster = serving(2)
    mismatch(cluster, candidate(cluster))
    gpus.settle(cluster, 2)
    return cluster


BACKOFF = steps.edit(runPolicy={"backoffLimit": 0})

SITUATIONS: Mapping[str, Situation] = {
    "unobserved": Cluster,
    "edited": edited,
    "staging": after(),
    "training": after(steps.STAGED, steps.running("train")),
    "merging": after(steps.STAGED, steps.TRAINED),
    "starting": after(steps.STAGED, steps.TRAINED, steps.MERGED),
    "queued": after(steps.STAGED, hold, wait(7 * DAY)),
    "preempted": after(steps.STAGED, steps.running("train"), hold, wait(DAY)),
    "failed-to-start": after(steps.STAGED, give_up),
    "suspended": after(steps.STAGED, steps.running("train"), steps.SUSPEND),
    "suspended-before-it-began": after(steps.SUSPEND),
    "secret-missing": after(stuck("SecretMissing")),
    "secret-missing-for-long": after(stuck("SecretMissing"), wait(601)),
    "unschedulable-for-long": after(stuck("Unschedulable"), wait(7 * DAY)),
    "invalid-spec": after(steps.edit(training={"advanced": {"microBatchSize": 3}})),
    "dataset-invalid": after(
        steps.run("stage", 65, workload.message("stage", "failed", reason="DatasetInvalid"))
    ),
    "cuda-out-of-memory": after(
        steps.STAGED,
        steps.run("train", 80, workload.message("train", "failed", reason="CUDAOutOfMemory")),
    ),
    "budget-exceeded": after(
        steps.STAGED,
        steps.run("train", 85, workload.message("train", "failed", reason="BudgetExceeded")),
    ),
    "retries-exhausted": after(BACKOFF, steps.STAGED, steps.run("train", 1, "")),
    "completed": after(steps.NO_SERVING, steps.STAGED, steps.TRAINED, steps.MERGED),
    "serving": after(steps.run_all),
    "serving-and-suspended": after(steps.run_all, steps.SUSPEND),
    "endpoint-lost": after(steps.run_all, lose_endpoint, wait(60)),
    "endpoint-down": after(steps.run_all, lose_endpoint, wait(DAY)),
    "candidate-failed": failed_candidate,
}


def job_in(situation: str) -> dict[str, Any]:
    """Return the FineTuneJob of a situation, as the API server would give it out."""
    job: dict[str, Any] = copied(SITUATIONS[situation]().present_job())
    return job
