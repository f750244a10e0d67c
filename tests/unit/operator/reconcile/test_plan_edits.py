"""Edits that retrain, merge again, roll the serving pods, or change nothing."""

import json
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, stored
from tests.support.reconcile.plan_cases import Case, Step, expected, run_case
from tests.support.reconcile.plan_steps import (
    MERGED,
    NO_SERVING,
    PREPARED,
    SUSPEND,
    TRAINED,
    delete,
    edit,
    run_all,
    running,
    settle,
    stop,
    sync,
)
from tests.unit.operator.reconcile.test_plan_stages import FIRST

from finetune_api.defaulting import builtin_defaults
from finetune_api.revision_hash import text_digest
from finetune_operator.actions import Apply, Delete
from finetune_operator.config import Settings
from finetune_operator.revisions.documents import operator_file
from finetune_operator.types import Object

RETRAIN = edit(training={"seed": 1})
BACK = edit(training=None)
REMERGE = edit(merge={"dtype": "bfloat16"})
ROLL = edit(serving={"maxModelLen": 2048})
SERVING_AGAIN = edit(serving=None)
SECOND = tuple(line.replace("r1", "r2") for line in FIRST if "NetworkPolicy" not in line)
KEEP = ("Apply Deployment demo-b1", "Apply Service demo-serve -> b1")
DONE = "Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving+"
SERVING_OLD = "Succeeded? Reconciling+ Suspended- DataReady{} Trained{} Merged{} Serving+"


def upgraded(cluster: Cluster) -> None:
    """Give the operator other images, another serving command and other defaults."""
    cluster.config = Settings.model_validate(
        {
            "images": {
                "trainer": "registry/trainer:2",
                "serving": "registry/vllm:2",
                "operator": "registry/operator:2",
            },
            "serving": {"command": ["serve"], "env": {"A": "b"}},
            "defaults": {
                "training": {"learningRate": 1e-5, "lora": {"r": 64}},
                "merge": {"dtype": "bfloat16"},
                "storage": {"size": "2Ti"},
                "placement": {"nodeSelector": {"gpu": "h100"}},
            },
        }
    )


def all_of(*steps: Step) -> Step:
    return lambda cluster: [step(cluster) for step in steps]


CASES = {
    "retrain edit during training stops the old Job": Case(
        given=(PREPARED, running("train"), RETRAIN),
        actions=("Delete Job demo-r1-train-1 Foreground", *SECOND),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "new training waits until the old train pod has terminated": Case(
        given=(PREPARED, running("train"), RETRAIN, settle, PREPARED),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "new training starts after the old train pod is gone": Case(
        given=(PREPARED, running("train"), RETRAIN, settle, PREPARED, stop("train")),
        actions=("Create Job demo-r2-train-1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "retrain edit while serving starts data preparation": Case(
        given=(run_all, RETRAIN),
        actions=SECOND,
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "stable build serves while the new one is merged": Case(
        given=(run_all, RETRAIN, PREPARED, TRAINED, settle),
        ready="-Merging",
        conditions=SERVING_OLD.format("+", "+", "?"),
    ),
    "candidate starts next to the stable build": Case(
        given=(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync),
        actions=("Apply Deployment demo-b2",),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "Service moves to the verified candidate": Case(
        given=(
            *(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
        ),
        actions=("Apply Deployment demo-b2", "Apply Service demo-serve -> b2"),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "replaced Deployment is deleted after the Service moved": Case(
        given=(
            *(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
            lambda cluster: cluster.reconcile(),
        ),
        actions=(
            "Apply Deployment demo-b2",
            "Apply Service demo-serve -> b2",
            "Delete Deployment demo-b1 Foreground",
        ),
        ready="+Serving",
        conditions=DONE,
    ),
    "terminating Deployment is not deleted again": Case(
        given=(
            *(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
            settle,
        ),
        actions=("Apply Deployment demo-b2", "Apply Service demo-serve -> b2"),
        ready="+Serving",
        conditions=DONE,
    ),
    "edit back to the revision that still serves": Case(
        given=(run_all, RETRAIN, PREPARED, running("train"), BACK),
        actions=("Delete Job demo-r2-train-1 Foreground", *KEEP),
        ready="+Serving",
        conditions=DONE,
    ),
    "edit back to a completed revision trains nothing": Case(
        given=(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync, BACK),
        actions=(*KEEP, "Delete Deployment demo-b2 Foreground"),
        ready="+Serving",
        conditions=DONE,
    ),
    "edit back to a stopped revision resumes it": Case(
        given=(PREPARED, running("train"), RETRAIN, settle, stop("train"), BACK),
        actions=("Delete Job demo-r2-prepare-1 Foreground", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "abandoned candidate is deleted before the next training": Case(
        given=(
            *(run_all, RETRAIN, PREPARED, TRAINED, MERGED, settle, sync),
            edit(training={"seed": 2}),
        ),
        actions=(
            *(line.replace("r2", "r3") for line in SECOND),
            "Delete Deployment demo-b2 Foreground",
        ),
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "new rerun value trains again": Case(
        given=(run_all, edit(rerun="2030-01-02")),
        actions=SECOND,
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "merge edit while serving starts another merge": Case(
        given=(run_all, REMERGE),
        actions=("Create Job demo-r1-merge-2",),
        ready="-Merging",
        conditions=SERVING_OLD.format("+", "+", "?").replace("Succeeded?", "Succeeded+"),
    ),
    "merge edit during the merge stops its Job": Case(
        given=(PREPARED, TRAINED, running("merge"), REMERGE),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "edit back to an already merged build": Case(
        given=(
            *(run_all, REMERGE, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            *(sync, settle, edit(merge=None)),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "roll edit updates the Deployment": Case(
        given=(run_all, ROLL),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "roll edit replaces the serving pods": Case(
        given=(run_all, ROLL, settle),
        actions=("Apply Deployment demo-b1",),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "disabled serving deletes Service and Deployment": Case(
        given=(run_all, NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "disabled serving waits for its pod to terminate": Case(
        given=(run_all, NO_SERVING, settle, sync, sync),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "disabled serving is Completed once all is deleted": Case(
        given=(run_all, NO_SERVING, stop("serve")),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Merged+",
    ),
    "disabled serving while the next revision trains": Case(
        given=(run_all, RETRAIN, PREPARED, running("train"), NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "disabled serving while suspended": Case(
        given=(run_all, RETRAIN, SUSPEND, NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "enabled serving starts the completed build": Case(
        given=(run_all, NO_SERVING, stop("serve"), SERVING_AGAIN),
        actions=KEEP,
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "disabled merge keeps the completed model": Case(
        given=(run_all, all_of(NO_SERVING, edit(merge={"enabled": False}))),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+ Serving-",
    ),
    "disabled merge stops a running merge": Case(
        given=(
            *(NO_SERVING, PREPARED, TRAINED, running("merge")),
            edit(merge={"enabled": False}),
        ),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="+Completed",
        conditions="Succeeded+ Finished+ Suspended- DataReady+ Trained+",
    ),
    "enabled merge merges the trained adapter": Case(
        given=(
            edit(serving={"enabled": False}, merge={"enabled": False}),
            *(PREPARED, TRAINED, settle, edit(merge=None)),
        ),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged?",
    ),
    "deleted Service is created again": Case(
        given=(run_all, delete("Service", "demo-serve"), sync),
        actions=KEEP,
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "deleted Service selects the stable build again": Case(
        given=(run_all, RETRAIN, PREPARED, settle, delete("Service", "demo-serve"), sync),
        actions=("Apply Service demo-serve -> b1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "deleted Deployment is created again": Case(
        given=(
            *(run_all, delete("Deployment", "demo-B"), sync),
            lambda cluster: controllers.stop(cluster, newest_server(cluster)),
            *(sync, sync),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Restarting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "deleted stable Deployment is created again while the next revision trains": Case(
        given=(
            *(run_all, RETRAIN, PREPARED, running("train"), delete("Deployment", "demo-b1"), sync),
            lambda cluster: controllers.stop(cluster, controllers.pod_of_stage(cluster, "serve")),
            *(sync, sync),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "edits of metadata and logging change nothing": Case(
        given=(run_all, edit(training={"advanced": {"saveSteps": 7, "loggingSteps": 3}})),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "writing out a default value changes nothing": Case(
        given=(run_all, edit(training={"learningRate": 2e-4, "lora": {"r": 16}})),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "operator upgrade changes nothing of a serving build": Case(
        given=(run_all, upgraded),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "operator upgrade changes nothing of a running training": Case(
        given=(PREPARED, running("train"), upgraded),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "operator upgrade changes nothing of the remaining stages": Case(
        given=(PREPARED, running("train"), upgraded, TRAINED),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
}


def newest_server(cluster: Cluster) -> dict[str, Any]:
    """Return the newest serving pod."""
    pods = [pod for pod in cluster.each("Pod") if pod["metadata"]["labels"].get(STAGE) == "serve"]
    return pods[-1]


STAGE = "finetune.dev/stage"
BUILT_IN = builtin_defaults()


@pytest.mark.parametrize("name", CASES)
def test_plan_matches_expected(name: str) -> None:
    case = CASES[name]
    planned, text = run_case(Cluster(), case)
    assert text == expected(case)
    assert case.says in planned.status["conditions"][0]["message"]


def test_an_upgrade_keeps_the_images_of_a_started_revision() -> None:
    cluster = Cluster()
    controllers.run(cluster, "prepare")
    upgraded(cluster)
    (training,) = (
        action.object for action in cluster.plan().actions if action.object["kind"] == "Job"
    )
    (container,) = training["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/trainer:1"
    for stage in ("train", "merge"):
        controllers.run(cluster, stage)
    controllers.serve(cluster)
    (deployment,) = cluster.list("Deployment")
    container, _ = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/vllm:1"
    assert container["command"] == ["vllm", "serve", "/model"]


def test_a_new_revision_takes_the_upgraded_operators_defaults() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    upgraded(cluster)
    cluster.edit(rerun="again")
    created = [action.object for action in cluster.plan().actions]
    volume = next(each for each in created if each["kind"] == "PersistentVolumeClaim")
    assert volume["spec"]["resources"]["requests"]["storage"] == "2Ti"


def test_a_pruned_revision_restarts_with_the_present_defaults() -> None:
    """If it becomes the target while it is collected, its old ConfigMap counts until it is gone."""
    cluster = Cluster()
    cluster.edit(revisionHistoryLimit=0)
    controllers.run_all(cluster)
    (going,) = cluster.each("ConfigMap")
    (server,) = (pod for pod in cluster.each("Pod") if controllers.alive(pod))
    RETRAIN(cluster)
    controllers.run_all(cluster)
    sync(cluster)
    controllers.stop(cluster, server)
    while "deletionTimestamp" not in going["metadata"]:
        all_of(sync, settle)(cluster)
    all_of(BACK, settle)(cluster)
    assert cluster.status["conditions"][0]["reason"] == "WaitingForVolume"
    upgraded(cluster)
    sync(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Preparing"
    (begun,) = (each for each in cluster.each("ConfigMap") if '"r": 64' in each["data"]["job.json"])
    assert begun["metadata"]["name"] == f"demo-{cluster.status['revision']}"
    assert cluster.get("ConfigMap", going["metadata"]["name"]) is None


def test_new_built_in_defaults_change_nothing_for_a_revision_that_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    before = cluster.plan()
    monkeypatch.setattr(
        "finetune_api.defaulting.builtin_defaults",
        lambda: {**BUILT_IN, "training": {**BUILT_IN["training"], "seed": 1, "epochs": 9.0}},
    )
    assert cluster.plan() == before
    cluster.edit(rerun="again")
    assert cluster.plan().status["revision"] != before.status["revision"]


def test_a_removed_setting_in_a_frozen_configuration_is_ignored() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    (configmap,), (revision,) = cluster.each("ConfigMap"), cluster.status["revisions"]
    text = revision["frozen"]["operator"].replace("{", '{"retired": {"setting": 1},', 1)
    document = operator_file(text)
    configmap["data"]["operator.json"] = document
    revision["frozen"] |= {"operator": text, "operatorDigest": text_digest(document)}
    assert stored(cluster.plan().status) == cluster.status
    assert not any(isinstance(action, Delete) for action in cluster.plan().actions)


def test_a_rolled_back_operator_does_not_retrain_a_revision_of_a_newer_one() -> None:
    """Its defaults have a field that this version lacks: no resolution here can be equal."""
    cluster = Cluster()
    controllers.run_all(cluster)
    (revision,) = cluster.status["revisions"]
    settings = json.loads(revision["frozen"]["operator"])
    settings["defaults"]["training"]["fieldToCome"] = 7
    revision["frozen"]["operator"] = json.dumps(settings)
    planned = cluster.plan()
    assert planned.actions == ()
    ready = planned.status["conditions"][0]
    assert (ready["type"], ready["reason"]) == ("Ready", "UnsupportedVersion")
    assert "spec.training.fieldToCome: unknown field" in ready["message"]
    assert "run that version of the operator or a newer one" in ready["message"]
    serving = next(each for each in planned.status["conditions"] if each["type"] == "Serving")
    assert serving["status"] == "True"


def test_each_build_is_served_in_its_own_number_format() -> None:
    cluster = Cluster()
    for stage in ("prepare", "train"):
        controllers.run(cluster, stage)
    half = controllers.message("merge", artifacts={"mergedDtype": "float16"})
    controllers.run(cluster, "merge", text=half)
    controllers.serve(cluster)
    cluster.edit(merge={"dtype": "bfloat16"})
    other = controllers.message("merge", artifacts={"mergedDtype": "bfloat16"})
    controllers.run(cluster, "merge", text=other)
    cluster.settle()
    formats = [number_format(each) for each in cluster.list("Deployment")]
    assert formats == ["float16", "bfloat16"]
    cluster.edit(merge=None)
    (back,) = (
        action.object
        for action in cluster.plan().actions
        if isinstance(action, Apply) and action.object["kind"] == "Deployment"
    )
    assert number_format(back) == "float16"


@pytest.mark.parametrize(
    ("written", "largest", "requested"),
    [("auto", 20_000, 20_000), ("auto", None, None), ("bfloat16", 20_000, None)],
)
def test_largest_activation_of_the_ledger_reaches_the_merge(
    written: str, largest: int | None, requested: int | None
) -> None:
    cluster = Cluster()
    cluster.edit(merge={"dtype": written})
    controllers.run(cluster, "prepare")
    found = {} if largest is None else {"largestActivation": largest}
    controllers.run(cluster, "train", text=controllers.message("train", artifacts=found))
    cluster.settle()
    (merge,) = (each for each in cluster.list("Job") if "-merge-" in each["metadata"]["name"])
    request = controllers.request_of(merge)
    assert (request.dtype, request.largest_activation) == (written, requested)


def number_format(deployment: Object) -> str:
    """Return the ``--dtype`` of a Deployment."""
    container, _ = deployment["spec"]["template"]["spec"]["containers"]
    arguments: list[str] = container["args"]
    return arguments[arguments.index("--dtype") + 1]


@pytest.mark.parametrize(
    ("done", "change", "cause"),
    [
        (["prepare"], {"training": {"seed": 1}}, "the spec now describes revision {revision}"),
        (
            ["prepare", "train"],
            {"merge": {"dtype": "bfloat16"}},
            "the spec now describes build {build}",
        ),
        (
            ["prepare", "train"],
            {"merge": {"enabled": False}},
            "the spec no longer asks for the merge stage",
        ),
    ],
)
def test_an_event_says_why_a_job_was_stopped(done: list[str], change: Any, cause: str) -> None:
    cluster = Cluster()
    cluster.edit(serving={"enabled": False})
    for stage in done:
        controllers.run(cluster, stage)
    cluster.settle()
    *_, job = (each["metadata"]["name"] for each in cluster.each("Job"))
    cluster.recorded.clear()
    cluster.edit(**change)
    cluster.settle()
    superseded = [each.message for each in cluster.recorded if each.reason == "Superseded"]
    expected = cause.format(**{name: cluster.status[name] for name in ("revision", "build")})
    assert superseded == [f"Job {job} was stopped: {expected}."]
