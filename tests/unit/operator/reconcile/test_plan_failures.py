"""Failures: their reasons and messages, and the edits that give another attempt."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.plan_cases import Case, Step, expected, run_case
from tests.support.reconcile.plan_steps import (
    PREPARED,
    SUSPEND,
    TRAINED,
    delete,
    edit,
    run,
    run_all,
    running,
    settle,
    stop,
    sync,
)

from finetune_api.contracts.exitcodes import FINAL, ExitCode
from finetune_api.contracts.result import MANIFESTS

FAILED_TRAINING = "Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-"
TRAINING = "Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-"
NO_RETRY = edit(runPolicy={"backoffLimit": 0})


def failed(stage: str, reason: str) -> str:
    return controllers.message(stage, "failed", reason=reason, message=f"because of {reason}")


FULL = run("train", ExitCode.VOLUME_FULL, failed("train", "VolumeFull"))
DIVERGED = run("train", ExitCode.LOSS_DIVERGED, failed("train", "LossDiverged"))
REFUSED = run("prepare", ExitCode.DOES_NOT_FIT, failed("prepare", "DoesNotFit"))
SHORTER = edit(serving={"maxModelLen": 4096})
GROW = edit(storage={"size": "100Gi"})


def remove(kind: str, name: str) -> Step:
    """Delete a child as a user does, and let the deletion finish."""
    return lambda cluster: (delete(kind, name)(cluster), sync(cluster), sync(cluster))


def orphan(stage: str) -> Step:
    """Delete a stage's Job and orphan its pod, which continues to run."""
    return delete("Job", f"demo-R-{stage}-1", "Orphan")


CASES = {
    "serving edit retries data preparation that failed with DoesNotFit": Case(
        given=(REFUSED, settle, SHORTER),
        actions=("Create Job demo-r1-prepare-2",),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "serving edit does not retry a failed training": Case(
        given=(PREPARED, DIVERGED, settle, SHORTER),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "terminal training failure is Stalled": Case(
        given=(PREPARED, DIVERGED),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "terminal training failure stays Stalled after another reconcile": Case(
        given=(PREPARED, DIVERGED, settle, sync, settle),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "terminal training failure stays Stalled after its Job is deleted": Case(
        given=(PREPARED, DIVERGED, settle, remove("Job", "demo-R-train-1")),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "terminal failure of data preparation is Stalled": Case(
        given=(run("prepare", ExitCode.NOT_FOUND, failed("prepare", "ModelNotFound")),),
        ready="-ModelNotFound",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady- Trained? Merged? Serving-",
    ),
    "terminal failure of the merge is Stalled": Case(
        given=(PREPARED, TRAINED, run("merge", ExitCode.NOT_MERGEABLE, failed("merge", "Odd"))),
        ready="-Odd",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained+ Merged- Serving-",
    ),
    "terminal failure without a message is Stalled": Case(
        given=(PREPARED, run("train", ExitCode.LOSS_DIVERGED, failed("train", "Odd"), reason="x")),
        ready="-Odd",
        conditions=FAILED_TRAINING,
    ),
    "first transient failure is retried by the Job": Case(
        given=(PREPARED, run("train", ExitCode.TRANSIENT, failed("train", "Transient"))),
        ready="-Training",
        conditions=TRAINING,
    ),
    "last transient failure is Stalled": Case(
        given=(NO_RETRY, PREPARED, run("train", ExitCode.TRANSIENT, failed("train", "Transient"))),
        ready="-Transient",
        conditions=FAILED_TRAINING,
    ),
    "failure without a result is RetriesExhausted": Case(
        given=(NO_RETRY, PREPARED, run("train", 1, "")),
        ready="-RetriesExhausted",
        conditions=FAILED_TRAINING,
        says="exited with code 1. Run kubectl logs job/demo-",
    ),
    "Job that was stopped too often is RetriesExhausted": Case(
        given=(NO_RETRY, PREPARED, run("train", 143, controllers.message("train", "stopped"))),
        ready="-RetriesExhausted",
        conditions=FAILED_TRAINING,
        says="stopped externally",
    ),
    "train pod killed for its memory is OutOfMemory": Case(
        given=(NO_RETRY, PREPARED, run("train", 137, "", reason="OOMKilled")),
        ready="-OutOfMemory",
        conditions=FAILED_TRAINING,
        says="Raise spec.resources.train.limits.memory",
    ),
    "retry-class edit gives a failed stage another attempt": Case(
        given=(PREPARED, FULL, settle, edit(runPolicy={"maxGpuSeconds": 3600})),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "larger spec.storage.size grows the volume before the next attempt": Case(
        given=(PREPARED, FULL, settle, GROW),
        actions=("Apply PersistentVolumeClaim demo-r1 100Gi", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "retry-class edit during a failing attempt gives another attempt": Case(
        given=(PREPARED, running("train"), GROW, FULL),
        actions=("Apply PersistentVolumeClaim demo-r1 100Gi", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "edit of the StorageClass does not change a bound volume": Case(
        given=(PREPARED, FULL, settle, edit(storage={"size": "1Ti", "storageClassName": "fast"})),
        actions=("Apply PersistentVolumeClaim demo-r1 1Ti", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "smaller spec.storage.size does not shrink the volume": Case(
        given=(GROW, PREPARED, DIVERGED, settle, edit(storage={"size": None})),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "retry-class edit does not restart a running pod": Case(
        given=(PREPARED, running("train"), GROW),
        ready="-Training",
        conditions=TRAINING,
    ),
    "retry of a suspended job waits until it is resumed": Case(
        given=(PREPARED, FULL, settle, GROW, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained- Merged? Serving-",
    ),
    "train Job deleted externally while its pod runs": Case(
        given=(PREPARED, running("train"), delete("Job", "demo-R-train-1")),
        ready="-WaitingForPod",
        conditions=TRAINING,
    ),
    "train Job deleted externally together with its pod": Case(
        given=(PREPARED, running("train"), delete("Job", "demo-R-train-1"), sync, stop("train")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "result of a terminating finished Job counts": Case(
        given=(PREPARED, TRAINED, delete("Job", "demo-R-train-1")),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "orphaned train pod blocks a second trainer": Case(
        given=(PREPARED, running("train"), orphan("train"), settle),
        ready="-WaitingForPod",
        conditions=TRAINING,
        says="Waiting for Pod pod-",
    ),
    "terminated orphaned train pod does not block the next attempt": Case(
        given=(PREPARED, running("train"), orphan("train"), stop("train")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "completed stages do not need their Jobs": Case(
        given=(
            run_all,
            *(remove("Job", f"demo-R-{stage}-1") for stage in ("prepare", "train", "merge")),
        ),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "deleted frozen configuration is created again": Case(
        given=(PREPARED, running("train"), remove("ConfigMap", "demo-R")),
        actions=("Create ConfigMap demo-r1",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "deleted NetworkPolicy is created again": Case(
        given=(run_all, remove("NetworkPolicy", "demo-serve")),
        actions=(
            "Create NetworkPolicy demo-serve",
            "Apply Deployment demo-b1",
            "Apply Service demo-serve -> b1",
        ),
        ready="+Serving",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "stage waits for a terminating volume": Case(
        given=(PREPARED, TRAINED, delete("PersistentVolumeClaim", "demo-R")),
        # Their pods would keep the volume.
        actions=(
            "Delete Job demo-r1-prepare-1 Foreground",
            "Delete Job demo-r1-train-1 Foreground",
        ),
        ready="-WaitingForVolume",
        conditions=TRAINING,
    ),
    "edit to an invalid spec is Stalled": Case(
        given=(PREPARED, running("train"), edit(training={"epochs": 1, "maxSteps": 2})),
        ready="-InvalidSpec",
        conditions="Succeeded? Finished+ Stalled+ Suspended- DataReady+ Trained? Merged? Serving-",
        says="remove one of them",
    ),
    "initially invalid spec is Stalled": Case(
        given=(edit(training={"learningRate": 7}),),
        ready="-InvalidSpec",
        conditions="Succeeded? Finished+ Stalled+ Suspended-",
        says="spec.training.learningRate",
    ),
    "corrected spec continues": Case(
        given=(
            PREPARED,
            running("train"),
            edit(training={"epochs": 1, "maxSteps": 2}),
            settle,
            edit(training=None),
        ),
        ready="-Training",
        conditions=TRAINING,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_expected(name: str) -> None:
    case = CASES[name]
    planned, text = run_case(Cluster(), case)
    assert text == expected(case)
    ready = next(each for each in planned.status["conditions"] if each["type"] == "Ready")
    assert case.says in ready["message"]


TERMINAL = [ExitCode(code) for code in FINAL if code != ExitCode.PUBLISH_FAILED]
"""Those of the stages that produce the model."""


@pytest.mark.parametrize("stage", ["prepare", "train", "merge"])
@pytest.mark.parametrize("code", TERMINAL, ids=lambda code: code.name)
def test_terminal_exit_codes_stall_with_the_trainers_message(stage: str, code: ExitCode) -> None:
    cluster = Cluster()
    before = ("prepare", "train", "merge")
    for done in before[: before.index(stage)]:
        controllers.run(cluster, done)
    controllers.run(cluster, stage, code, failed(stage, "Broken"))
    cluster.settle()
    conditions = {each["type"]: each for each in cluster.status["conditions"]}
    for type_, status in (("Ready", "False"), ("Stalled", "True"), ("Succeeded", "False")):
        found = conditions[type_]
        assert (found["status"], found["reason"]) == (status, "Broken"), type_
    messages = [each["message"] for each in cluster.status["conditions"]]
    assert messages.count("because of Broken") == 1, "in the condition Ready"
    assert conditions["Ready"]["message"] == "because of Broken"
    assert cluster.plan().actions == ()


def test_invalid_data_that_was_corrected_is_read_again_after_a_rerun() -> None:
    """The spec was right, so no other field of it starts another attempt."""
    cluster = Cluster()
    controllers.run(
        cluster, "prepare", ExitCode.DATASET_INVALID, failed("prepare", "DatasetInvalid")
    )
    cluster.settle()
    (ready,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    assert ready["message"] == (
        "because of DatasetInvalid. If you have corrected the data and not the spec, set "
        "spec.rerun to a new value to try again."
    )
    cluster.edit(rerun="corrected")
    cluster.settle()
    (ready,) = (each for each in cluster.status["conditions"] if each["type"] == "Ready")
    assert ready["reason"] == "Preparing"


def test_an_empty_message_is_replaced_and_the_plan_is_stable() -> None:
    cluster = Cluster()
    controllers.run(
        cluster, "prepare", 65, controllers.message("prepare", "failed", reason="A", message="")
    )
    cluster.reconcile()
    first = cluster.status
    cluster.reconcile()
    assert cluster.status == first
    assert first["conditions"][0]["message"] == "The prepare stage failed."


def test_the_ledger_records_a_stopped_attempt() -> None:
    cluster = Cluster()
    for step in (PREPARED, running("train"), SUSPEND, settle):
        step(cluster)
    (revision,) = cluster.status["revisions"]
    assert [stage["outcome"] for stage in revision["stages"]] == ["Completed", "Stopped"]


def test_warnings_are_deduplicated_and_limited_as_in_the_crd() -> None:
    cluster = Cluster()
    reported = [f"stage {number}" for number in range(20)]
    controllers.run(
        cluster, "prepare", text=controllers.message("prepare", warnings=[*reported, *reported])
    )
    cluster.settle()
    assert cluster.status["warnings"] == reported
    more = [f"train {number}" for number in range(20)]
    controllers.run(cluster, "train", text=controllers.message("train", warnings=more))
    cluster.settle()
    assert cluster.status["warnings"] == reported + more[:12]
    cluster.edit(rerun="again")
    cluster.settle()
    assert cluster.status["warnings"] == []


def test_findings_of_the_stages_are_kept_in_the_ledger() -> None:
    cluster = Cluster()
    found = {"baseCommit": "c0ffee", "rows": 900, "plannedSteps": 338, "novel": [1]}
    controllers.run(cluster, "prepare", text=controllers.message("prepare", artifacts=found))
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    manifests = {name: controllers.digest_of(name) for name in MANIFESTS["prepare"]}
    assert revision["artifacts"] == {"baseCommit": "c0ffee", **manifests}
    assert revision["data"] == {"rows": 900, "plannedSteps": 338}


def test_each_transition_on_which_people_act_is_one_event() -> None:
    cluster = Cluster()
    assert cluster.reconcile().events == (), "the start of a stage is expected"
    controllers.run(cluster, "prepare")
    (second,) = cluster.reconcile().events
    assert (second.type, second.reason) == ("Normal", "DataReady")
    assert cluster.reconcile().events == ()
    DIVERGED(cluster)
    (event,) = cluster.reconcile().events
    assert (event.type, event.reason) == ("Warning", "LossDiverged")
    assert event.message == "because of LossDiverged"


def test_a_job_without_incidents_has_one_event_for_each_completed_stage() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    recorded = [(event.type, event.reason) for event in cluster.recorded]
    assert recorded == [
        ("Normal", reason) for reason in ("DataReady", "Trained", "Merged", "Serving")
    ]
