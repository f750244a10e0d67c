"""The way through the stages: what each look plans, from a new job to one that serves."""

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.unit.operator.reconcile.plan_cases import Case, expected, tell
from tests.unit.operator.reconcile.plan_steps import (
    MERGED,
    NO_MERGE,
    NO_SERVING,
    RESUME,
    STAGED,
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
    "Create NetworkPolicy demo-work",
    "Create NetworkPolicy demo-serve",
    "Create ConfigMap demo-r1",
    "Create PersistentVolumeClaim demo-r1",
    "Create Job demo-r1-prepare-1",
)

ORDER = {
    "a new job": Case(
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "while the stage pod runs nothing is written": Case(
        given=(running("prepare"),),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "staged": Case(
        given=(STAGED,),
        actions=("Create Job demo-r1-train-1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "while the train pod runs nothing is written": Case(
        given=(STAGED, running("train")),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "trained": Case(
        given=(STAGED, TRAINED),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "merged": Case(
        given=(STAGED, TRAINED, MERGED),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "served": Case(
        given=(run_all,),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving+",
        says="http://demo-serve.ns.svc:8000/v1",
    ),
    "without serving it ends with the merge": Case(
        given=(NO_SERVING, STAGED, TRAINED, MERGED),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+",
    ),
    "without merging it ends with the adapter": Case(
        given=(NO_MERGE, STAGED, TRAINED),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+",
    ),
}

UNPROVED = {
    "complete without a result": Case(
        given=(STAGED, run("train", text="")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "complete with something unreadable": Case(
        given=(STAGED, run("train", text="Killed\n")),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "complete, but it was only stopped": Case(
        given=(STAGED, run("train", text=controllers.message("train", "stopped"))),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "complete without a result, again and again": Case(
        given=(edit(runPolicy={"backoffLimit": 1}), STAGED, *[run("train", text="")] * 2),
        ready="-ResultMissing",
        conditions="Succeeded- Stalled+ Suspended- DataReady+ Trained- Merged? Serving-",
        says="left no result",
    ),
}

SUSPENSION = {
    "suspended from the start": Case(
        given=(SUSPEND,),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "suspended while staging": Case(
        given=(running("prepare"), SUSPEND),
        actions=("Delete Job demo-r1-prepare-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "suspended while training": Case(
        given=(STAGED, running("train"), SUSPEND),
        actions=("Delete Job demo-r1-train-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended, and the operator died before it deleted the Job": Case(
        given=(STAGED, running("train"), SUSPEND, die_before(1)),
        actions=("Delete Job demo-r1-train-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "the Job of a suspended job is deleted once": Case(
        given=(STAGED, running("train"), SUSPEND, settle),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended between two stages": Case(
        given=(STAGED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained? Merged? Serving-",
    ),
    "suspended while merging": Case(
        given=(STAGED, TRAINED, running("merge"), SUSPEND),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained+ Merged? Serving-",
    ),
    "suspended before the endpoint was started": Case(
        given=(STAGED, TRAINED, MERGED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded+ Suspended+ DataReady+ Trained+ Merged+ Serving-",
    ),
    "what serves goes on serving": Case(
        given=(run_all, SUSPEND),
        actions=("Apply Deployment demo-b1", "Apply Service demo-serve -> b1"),
        ready="+Serving",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "a Job that ended before it was stopped has ended": Case(
        given=(STAGED, TRAINED, SUSPEND),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady+ Trained+ Merged? Serving-",
    ),
    "resumed while the old pod still saves its checkpoint": Case(
        given=(STAGED, running("train"), SUSPEND, settle, RESUME),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
        says="waiting for pod pod-",
    ),
    "resumed": Case(
        given=(STAGED, running("train"), SUSPEND, stop("train"), RESUME),
        actions=("Create Job demo-r1-train-2",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
}

DEATHS = {
    "the operator died before it wrote anything": Case(
        given=(die_before(0),),
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "the operator died before it created anything": Case(
        given=(die_before(1),),
        actions=FIRST,
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "the operator died before it created the Job": Case(
        given=(die_before(6),),
        actions=FIRST[-1:],
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "the operator died before it created the train Job": Case(
        given=(STAGED, die_before(1)),
        actions=("Create Job demo-r1-train-1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "the operator died after it created the train Job, which ended": Case(
        given=(STAGED, lambda cluster: cluster.look(), run_unseen("train")),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
}

CASES = ORDER | DEATHS | UNPROVED | SUSPENSION


@pytest.mark.parametrize("name", CASES)
def test_look(name: str) -> None:
    case = CASES[name]
    planned, told = tell(Cluster(), case)
    assert told == expected(case)
    assert case.says in planned.status["conditions"][0]["message"]
