"""The ledger keeps the loss history of each revision, and when its stages started and ended."""

from typing import Any

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.plan_steps import (
    MERGED,
    PREPARED,
    edit,
    run,
    running,
    serve,
    settle,
    sync,
)

from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.naming import STAGE
from finetune_operator.reconcile.stages import attempts

HISTORY = {"loss": [[1, 2.5], [9, 1.25]], "evalLoss": [[9, 1.5]]}
ARTIFACTS = {"adapter": "sha256:a", "adapterManifest": "a" * 64}


def trained(history: Any, outcome: str = "completed") -> str:
    artifacts = {**ARTIFACTS, **({} if history is None else {"lossHistory": history})}
    return controllers.message("train", outcome, artifacts=artifacts)


def record(cluster: Cluster, at: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = cluster.status["revisions"][at]
    return found


def test_the_ledger_keeps_the_history_of_a_completed_training() -> None:
    cluster = Cluster()
    for step in (PREPARED, run("train", text=trained(HISTORY)), settle):
        step(cluster)
    assert record(cluster)["artifacts"]["lossHistory"] == HISTORY
    before = cluster.status
    cluster.settle()
    assert cluster.status == before, "the status is written once"


def test_a_trainer_of_an_older_version_reports_no_history() -> None:
    cluster = Cluster()
    for step in (PREPARED, run("train", text=trained(None)), settle):
        step(cluster)
    assert cluster.status["conditions"][0]
    assert "lossHistory" not in record(cluster)["artifacts"]


def test_the_ledger_keeps_the_history_of_a_training_that_failed_until_it_completes() -> None:
    cluster = Cluster()
    partial = {"loss": [[1, 2.5]]}
    failed = run(
        "train",
        66,
        controllers.message(
            "train", "failed", reason="LossDiverged", artifacts={"lossHistory": partial}
        ),
    )
    for step in (PREPARED, failed, settle):
        step(cluster)
    assert record(cluster)["artifacts"].get("lossHistory") == partial
    edit(runPolicy={"maxRestarts": 30})(cluster)
    for step in (settle, run("train", text=trained(HISTORY)), settle):
        step(cluster)
    assert record(cluster)["artifacts"]["lossHistory"] == HISTORY


def test_the_ledger_has_start_and_end_of_each_stage_after_its_job_is_deleted() -> None:
    cluster = Cluster()
    for step in (PREPARED, running("train")):
        step(cluster)
    (job,) = (each for each in cluster.each("Job") if each["metadata"]["labels"][STAGE] == "train")
    job["status"]["startTime"] = began = cluster.stamp()
    cluster.touch(job)
    cluster.settle()
    train = record(cluster)["stages"][-1]
    assert (train["started"], "ended" in train) == (began, False)
    run("train", text=trained(HISTORY))(cluster)
    # Kueue may have evicted it meanwhile; the condition Complete has the same time.
    job["status"] = {**job["status"], "startTime": None, "completionTime": cluster.stamp()}
    cluster.touch(job)
    cluster.settle()
    controllers.delete(cluster, "Job", job["metadata"]["name"])
    cluster.settle()
    train = record(cluster)["stages"][1]
    assert (train["stage"], train["started"]) == ("train", began)
    assert train["ended"] > began


def test_a_stage_that_failed_ended_when_its_job_failed() -> None:
    failed = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-11-30T08:00:09Z"}
    job = {"status": {"startTime": "2026-11-30T08:00:00Z", "conditions": [failed]}}
    attempt = attempts.timed(Attempt(stage="train", attempt=1, outcome="Running"), job)
    assert (attempt.started, attempt.ended) == ("2026-11-30T08:00:00Z", "2026-11-30T08:00:09Z")


def test_a_pruned_revision_leaves_no_history() -> None:
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    for step in (PREPARED, run("train", text=trained(HISTORY)), MERGED, serve, settle):
        step(cluster)
    assert str(HISTORY["loss"]) in str(cluster.status)
    (server,) = (pod for pod in cluster.each("Pod") if controllers.alive(pod))
    cluster.edit(rerun="again")
    controllers.run_all(cluster)
    sync(cluster)
    controllers.stop(cluster, server)
    for step in (sync, settle) * 4:
        step(cluster)
    assert len(cluster.status["revisions"]) == 1
    assert "lossHistory" not in str(cluster.status)
