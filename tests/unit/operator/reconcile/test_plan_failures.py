"""Failures: which words they get, which edit gives another attempt, and what gives none."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.unit.operator.reconcile.plan_cases import Case, Step, expected, tell
from tests.unit.operator.reconcile.plan_steps import (
    STAGED,
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

FAILED_TRAINING = "Succeeded- Stalled+ Suspended- DataReady+ Trained- Merged? Serving-"
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
    """Delete a child by hand and let it go."""
    return lambda cluster: (delete(kind, name)(cluster), sync(cluster), sync(cluster))


def orphan(stage: str) -> Step:
    """Delete a stage's Job and leave its pod behind, which runs on."""
    return delete("Job", f"demo-R-{stage}-1", "Orphan")


CASES = {
    "serving that does not fit is looked at again when it is edited": Case(
        given=(REFUSED, settle, SHORTER),
        actions=("Create Job demo-r1-prepare-2",),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "a training that failed is not tried again for an edit of serving": Case(
        given=(STAGED, DIVERGED, settle, SHORTER),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "a failure that no retry can mend": Case(
        given=(STAGED, DIVERGED),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "it stays so": Case(
        given=(STAGED, DIVERGED, settle, sync, settle),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "it stays so without its Job": Case(
        given=(STAGED, DIVERGED, settle, remove("Job", "demo-R-train-1")),
        ready="-LossDiverged",
        conditions=FAILED_TRAINING,
        says="because of LossDiverged",
    ),
    "a failure of staging": Case(
        given=(run("prepare", ExitCode.NOT_FOUND, failed("prepare", "ModelNotFound")),),
        ready="-ModelNotFound",
        conditions="Succeeded- Stalled+ Suspended- DataReady- Trained? Merged? Serving-",
    ),
    "a failure of merging": Case(
        given=(STAGED, TRAINED, run("merge", ExitCode.NOT_MERGEABLE, failed("merge", "Odd"))),
        ready="-Odd",
        conditions="Succeeded- Stalled+ Suspended- DataReady+ Trained+ Merged- Serving-",
    ),
    "a failure that left no message": Case(
        given=(STAGED, run("train", ExitCode.LOSS_DIVERGED, failed("train", "Odd"), reason="x")),
        ready="-Odd",
        conditions=FAILED_TRAINING,
    ),
    "a first failure that may pass is retried by the Job": Case(
        given=(STAGED, run("train", ExitCode.TRANSIENT, failed("train", "Transient"))),
        ready="-Training",
        conditions=TRAINING,
    ),
    "the last failure that may pass": Case(
        given=(NO_RETRY, STAGED, run("train", ExitCode.TRANSIENT, failed("train", "Transient"))),
        ready="-Transient",
        conditions=FAILED_TRAINING,
    ),
    "failed without a result": Case(
        given=(NO_RETRY, STAGED, run("train", 1, "")),
        ready="-RetriesExhausted",
        conditions=FAILED_TRAINING,
        says="exit code 1: see kubectl logs job/demo-",
    ),
    "failed because it was stopped too often": Case(
        given=(NO_RETRY, STAGED, run("train", 143, controllers.message("train", "stopped"))),
        ready="-RetriesExhausted",
        conditions=FAILED_TRAINING,
        says="stopped from outside",
    ),
    "killed for its memory": Case(
        given=(NO_RETRY, STAGED, run("train", 137, "", reason="OOMKilled")),
        ready="-OutOfMemory",
        conditions=FAILED_TRAINING,
        says="raise spec.resources.train.limits.memory",
    ),
    "an edit of what gives another attempt": Case(
        given=(STAGED, FULL, settle, edit(runPolicy={"maxGpuSeconds": 3600})),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "the volume grows before the next attempt": Case(
        given=(STAGED, FULL, settle, GROW),
        actions=("Apply PersistentVolumeClaim demo-r1 100Gi", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "an edit that came while the attempt ran counts too": Case(
        given=(STAGED, running("train"), GROW, FULL),
        actions=("Apply PersistentVolumeClaim demo-r1 100Gi", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "the storage class of a volume that is there stays": Case(
        given=(STAGED, FULL, settle, edit(storage={"size": "1Ti", "storageClassName": "fast"})),
        actions=("Apply PersistentVolumeClaim demo-r1 1Ti", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions=TRAINING,
    ),
    "a volume never shrinks": Case(
        given=(GROW, STAGED, DIVERGED, settle, edit(storage={"size": None})),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "an edit of what concerns a running pod gives none": Case(
        given=(STAGED, running("train"), GROW),
        ready="-Training",
        conditions=TRAINING,
    ),
    "another attempt waits for its resumption": Case(
        given=(STAGED, FULL, settle, GROW, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained- Merged? Serving-",
    ),
    "a Job deleted by hand while its pod runs": Case(
        given=(STAGED, running("train"), delete("Job", "demo-R-train-1")),
        ready="-WaitingForPod",
        conditions=TRAINING,
    ),
    "a Job deleted by hand, and its pod is gone": Case(
        given=(STAGED, running("train"), delete("Job", "demo-R-train-1"), sync, stop("train")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "a finished Job that is being deleted still tells its end": Case(
        given=(STAGED, TRAINED, delete("Job", "demo-R-train-1")),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "a pod without its Job keeps a second trainer out": Case(
        given=(STAGED, running("train"), orphan("train"), settle),
        ready="-WaitingForPod",
        conditions=TRAINING,
        says="waiting for pod pod-",
    ),
    "a pod without its Job has ended": Case(
        given=(STAGED, running("train"), orphan("train"), stop("train")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "what has finished needs its Jobs no more": Case(
        given=(
            run_all,
            *(remove("Job", f"demo-R-{stage}-1") for stage in ("prepare", "train", "merge")),
        ),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "a frozen configuration that was deleted is written again": Case(
        given=(STAGED, running("train"), remove("ConfigMap", "demo-R")),
        actions=("Create ConfigMap demo-r1",),
        ready="-Training",
        conditions=TRAINING,
    ),
    "a policy that was deleted is written again": Case(
        given=(run_all, remove("NetworkPolicy", "demo-serve")),
        actions=(
            "Create NetworkPolicy demo-serve",
            "Apply Deployment demo-b1",
            "Apply Service demo-serve -> b1",
        ),
        ready="+Serving",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "a volume that is being deleted is waited for": Case(
        given=(STAGED, TRAINED, delete("PersistentVolumeClaim", "demo-R")),
        ready="-WaitingForVolume",
        conditions=TRAINING,
    ),
    "a spec that cannot be run": Case(
        given=(STAGED, running("train"), edit(training={"epochs": 1, "maxSteps": 2})),
        ready="-InvalidSpec",
        conditions="Stalled+ Succeeded? Suspended- DataReady+ Trained? Merged? Serving-",
        says="remove one of them",
    ),
    "a spec that could not be run from the start": Case(
        given=(edit(training={"learningRate": 7}),),
        ready="-InvalidSpec",
        conditions="Succeeded? Stalled+ Suspended-",
        says="spec.training.learningRate",
    ),
    "a spec that can be run again": Case(
        given=(
            STAGED,
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
def test_look(name: str) -> None:
    case = CASES[name]
    planned, told = tell(Cluster(), case)
    assert told == expected(case)
    ready = next(each for each in planned.status["conditions"] if each["type"] == "Ready")
    assert case.says in ready["message"]


@pytest.mark.parametrize("stage", ["prepare", "train", "merge"])
@pytest.mark.parametrize("code", [ExitCode(code) for code in FINAL], ids=lambda code: code.name)
def test_final_codes_stall_with_the_trainers_own_words(stage: str, code: ExitCode) -> None:
    cluster = Cluster()
    before = ("prepare", "train", "merge")
    for done in before[: before.index(stage)]:
        controllers.run(cluster, done)
    controllers.run(cluster, stage, code, failed(stage, "Broken"))
    cluster.settle()
    conditions = {each["type"]: each for each in cluster.status["conditions"]}
    for type_, status in (("Ready", "False"), ("Stalled", "True"), ("Succeeded", "False")):
        told = conditions[type_]
        assert (told["status"], told["reason"]) == (status, "Broken"), type_
        assert told["message"] == "because of Broken"
    assert cluster.plan().actions == ()


def test_a_message_too_empty_to_help_is_replaced_once_and_for_all() -> None:
    cluster = Cluster()
    controllers.run(
        cluster, "prepare", 65, controllers.message("prepare", "failed", reason="A", message="")
    )
    cluster.look()
    first = cluster.status
    cluster.look()
    assert cluster.status == first
    assert first["conditions"][0]["message"] == "the prepare stage failed"


def test_the_ledger_says_what_was_stopped() -> None:
    cluster = Cluster()
    for step in (STAGED, running("train"), SUSPEND, settle):
        step(cluster)
    (revision,) = cluster.status["revisions"]
    assert [stage["outcome"] for stage in revision["stages"]] == ["Completed", "Stopped"]


def test_warnings_add_up_without_doubles_and_stay_within_what_the_api_takes() -> None:
    cluster = Cluster()
    told = [f"stage {number}" for number in range(20)]
    controllers.run(
        cluster, "prepare", text=controllers.message("prepare", warnings=[*told, *told])
    )
    cluster.settle()
    assert cluster.status["warnings"] == told
    more = [f"train {number}" for number in range(20)]
    controllers.run(cluster, "train", text=controllers.message("train", warnings=more))
    cluster.settle()
    assert cluster.status["warnings"] == told + more[:12]
    cluster.edit(rerun="again")
    cluster.settle()
    assert cluster.status["warnings"] == []


def test_what_the_stages_found_is_kept() -> None:
    cluster = Cluster()
    found = {"baseCommit": "c0ffee", "rows": 900, "plannedSteps": 338, "novel": [1]}
    controllers.run(cluster, "prepare", text=controllers.message("prepare", artifacts=found))
    cluster.settle()
    (revision,) = cluster.status["revisions"]
    assert revision["artifacts"] == {"baseCommit": "c0ffee"}
    assert revision["data"] == {"rows": 900, "plannedSteps": 338}


def test_events_tell_each_change_once() -> None:
    cluster = Cluster()
    first = cluster.look()
    assert [(event.type, event.reason) for event in first.events] == [("Normal", "Preparing")]
    assert cluster.look().events == ()
    controllers.run(cluster, "prepare")
    second = cluster.look()
    assert [event.reason for event in second.events] == ["Training", "DataReady"]
    DIVERGED(cluster)
    (event,) = cluster.look().events
    assert (event.type, event.reason) == ("Warning", "LossDiverged")
    assert event.message == "because of LossDiverged"
