"""Steps of a job that serves with a number of GPUs, and what its status and objects then are."""

from typing import Any

from tests.fakes import controllers, scheduler
from tests.fakes.apiserver import Cluster, Thing

from finetune_operator.objects import naming

RETRAIN: Thing = {"training": {"seed": 1}}
REMERGE: Thing = {"merge": {"dtype": "bfloat16"}}


def serving(count: int, **spec: Any) -> Cluster:
    """Return a cluster with ``count`` GPUs whose job serves."""
    cluster = Cluster()
    cluster.edit(serving=spec)
    finish_stages(cluster, count, "prepare", "train", "merge")
    scheduler.settle(cluster, count)
    assert reason(cluster) == "Serving"
    return cluster


def finish_stages(cluster: Cluster, count: int, *stages: str) -> None:
    """Let the running pod of each stage complete."""
    for stage in stages:
        scheduler.settle(cluster, count)
        controllers.finish(cluster, scheduler.pod_of(cluster, stage), 0, controllers.message(stage))
        controllers.sync(cluster)


def reason(cluster: Cluster) -> str:
    return str(cluster.status["conditions"][0]["reason"])


def serves(cluster: Cluster) -> str:
    """Return status and reason of the condition Serving."""
    (found,) = [each for each in cluster.status["conditions"] if each["type"] == "Serving"]
    return f"{found['status']}/{found['reason']}"


def replicas(cluster: Cluster) -> list[int]:
    """Return the desired replicas of each Deployment, oldest first."""
    return [deployment["spec"]["replicas"] for deployment in cluster.each("Deployment")]


def selected(cluster: Cluster) -> str:
    (service,) = cluster.each("Service")
    return str(service["spec"]["selector"][naming.BUILD])


def candidate(cluster: Cluster) -> Thing:
    """Merge again and return the new build's pod, which has its own GPU."""
    cluster.edit(**REMERGE)
    finish_stages(cluster, 2, "merge")
    cluster.settle()
    controllers.sync(cluster)
    return scheduler.pod_of(cluster, "serve", cluster.builds[1])
