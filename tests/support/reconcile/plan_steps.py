"""Steps of the table's cases: actions of users, kubelets and controllers between two reconciles."""

from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Crash
from tests.support.reconcile.plan_cases import Step


def edit(**changes: Any) -> Step:
    return lambda cluster: cluster.edit(**changes)


def run(stage: str, code: int = 0, text: str | None = None, **end: Any) -> Step:
    return lambda cluster: controllers.run(cluster, stage, code, text, **end)


def run_unseen(stage: str) -> Step:
    """Start and end the pod of a stage without a reconcile."""

    def step(cluster: Cluster) -> None:
        controllers.sync(cluster)
        pod = controllers.pod_of_stage(cluster, stage)
        controllers.start(cluster, pod)
        controllers.finish(cluster, pod, 0, controllers.message(stage))
        controllers.sync(cluster)

    return step


def delete(kind: str, name: str, propagation: Any = "Foreground") -> Step:
    """Delete a child as a user does.

    ``R`` and ``B`` stand for the present revision and build, ``b1`` for the first build.
    """

    def step(cluster: Cluster) -> None:
        status = cluster.status
        own = name.replace("R", status["revision"]).replace("B", status["build"])
        own = own.replace("b1", cluster.builds[0])
        controllers.delete(cluster, kind, own, propagation)

    return step


def running(stage: str) -> Step:
    """Start the pod of the present stage, and reconcile."""

    def step(cluster: Cluster) -> None:
        cluster.settle()
        controllers.sync(cluster)
        controllers.start(cluster, controllers.pod_of_stage(cluster, stage))
        controllers.sync(cluster)
        cluster.settle()

    return step


def die_before(write: int) -> Step:
    """Reconcile, and crash before a write; write 0 is that of the status."""

    def step(cluster: Cluster) -> None:
        with pytest.raises(Crash):
            cluster.reconcile(die_before=write)

    return step


def stop(stage: str) -> Step:
    """Terminate a deleted pod, and collect it."""

    def step(cluster: Cluster) -> None:
        cluster.settle()
        controllers.sync(cluster)
        controllers.stop(cluster, controllers.pod_of_stage(cluster, stage))
        controllers.sync(cluster)
        controllers.sync(cluster)

    return step


settle: Step = Cluster.settle
sync: Step = controllers.sync
serve: Step = controllers.serve
run_all: Step = controllers.run_all
PREPARED, TRAINED, MERGED = run("prepare"), run("train"), run("merge")
SUSPEND, RESUME = edit(suspend=True), edit(suspend=False)
NO_SERVING = edit(serving={"enabled": False})
NO_MERGE = edit(serving={"enabled": False}, merge={"enabled": False})
