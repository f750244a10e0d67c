"""The stages: the plan at each step, from a new job to a serving one."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.support.reconcile.plan_cases import Case, expected, run_case
from tests.support.reconcile.plan_steps import (
    MERGED,
    NO_MERGE,
    NO_SERVING,
    PREPARED,
    RESUME,
    SUSPEND,
    TRAINED,
    die_before,
    edit,
    run,
    run_all,
    run_unseen,
    running,
    settle,
    stop,
)

FIRST = (
    "Create NetworkPolicy demo-prepare",
    "Create ConfigMap demo-r1",
    "Create PersistentVolumeClaim demo-r1",
    "Create Job demo-r1-prepare-1",
)

ORDER = {
    "new job starts data preparation": Case(
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "running prepare pod: nothing is written": Case(
        given=(running("prepare"),),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "completed data preparation starts training": Case(
        given=(PREPARED,),
        actions=("Create NetworkPolicy demo-work", "Create Job demo-r1-train-1"),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "running train pod: nothing is written": Case(
        given=(PREPARED, running("train")),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "completed training starts the merge": Case(
        given=(PREPARED, TRAINED),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "completed merge starts serving": Case(
        given=(PREPARED, TRAINED, MERGED),
        actions=(
            "Create NetworkPolicy demo-serve",
            "Apply Deployment demo-b1",
            "Apply Service demo-serve -> b1",
        ),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "ready serving pod: Serving": Case(
        given=(run_all,),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+",
        says="http://demo-serve.ns.svc:8000/v1",
    ),
    "job without serving ends with the merge": Case(
        given=(NO_SERVING, PREPARED, TRAINED, MERGED),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+",
    ),
    "job without merging ends with the adapter": Case(
        given=(NO_MERGE, PREPARED, TRAINED),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+",
    ),
}

UNPROVED = {
    "Complete Job without a result is retried": Case(
        given=(PREPARED, run("train", text="")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "Complete Job with an unreadable result is retried": Case(
        given=(PREPARED, run("train", text="Killed\n")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "Complete Job with a stopped result is retried": Case(
        given=(PREPARED, run("train", text=controllers.message("train", "stopped"))),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "repeatedly missing result is ResultMissing": Case(
        given=(edit(runPolicy={"backoffLimit": 1}), PREPARED, *[run("train", text="")] * 2),
        ready="-ResultMissing",
        conditions="Succeeded- Finished+ Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
        says="its pod did not report that the stage is complete",
    ),
}

SUSPENSION = {
    "initially suspended job creates nothing": Case(
        given=(SUSPEND,),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "suspended during data preparation": Case(
        given=(running("prepare"), SUSPEND),
        actions=("Delete Job demo-r1-prepare-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "suspended during training": Case(
        given=(PREPARED, running("train"), SUSPEND),
        actions=("Delete Job demo-r1-train-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended, and the operator crashed before it deleted the Job": Case(
        given=(PREPARED, running("train"), SUSPEND, die_before(1)),
        actions=("Delete Job demo-r1-train-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "the Job of a suspended job is deleted once": Case(
        given=(PREPARED, running("train"), SUSPEND, settle),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended between two stages": Case(
        given=(PREPARED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended during the merge": Case(
        given=(PREPARED, TRAINED, running("merge"), SUSPEND),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained+ Merged? Serving-",
    ),
    "suspended before the endpoint was started": Case(
        given=(PREPARED, TRAINED, MERGED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded+ Suspended+ DataReady+ Trained+ Merged+ Serving-",
    ),
    "suspended job continues to serve": Case(
        given=(run_all, SUSPEND),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "Job that finished before its deletion is completed": Case(
        given=(PREPARED, TRAINED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained+ Merged? Serving-",
    ),
    "resumed while the old pod still saves its checkpoint: waits": Case(
        given=(PREPARED, running("train"), SUSPEND, settle, RESUME),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
        says="Waiting for Pod pod-",
    ),
    "resumed job starts another attempt": Case(
        given=(PREPARED, running("train"), SUSPEND, stop("train"), RESUME),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
}

DEATHS = {
    "operator crash before the first write": Case(
        given=(die_before(0),),
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "operator crash after the status, before the first create": Case(
        given=(die_before(1),),
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "operator crash before it created the prepare Job": Case(
        given=(die_before(len(FIRST)),),
        actions=FIRST[-1:],
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "operator crash in a batch, which was executed in reverse": Case(
        given=(die_before(3),),
        actions=(FIRST[0], FIRST[-1]),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "operator crash before it created the train Job": Case(
        given=(PREPARED, die_before(2)),
        actions=("Create Job demo-r1-train-1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "operator down until the created train Job has ended": Case(
        given=(PREPARED, lambda cluster: cluster.reconcile(), run_unseen("train")),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
}

CASES = ORDER | DEATHS | UNPROVED | SUSPENSION


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_expected(name: str) -> None:
    case = CASES[name]
    planned, text = run_case(Cluster(), case)
    assert text == expected(case)
    assert case.says in planned.status["conditions"][0]["message"]
