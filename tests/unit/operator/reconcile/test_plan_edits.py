"""Edits: what trains again, what merges again, what only rolls, and what changes nothing."""

import json
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, stored
from tests.unit.operator.reconcile.plan_cases import Case, Step, expected, tell
from tests.unit.operator.reconcile.plan_steps import (
    MERGED,
    NO_SERVING,
    STAGED,
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
from finetune_operator.config import OperatorConfig
from finetune_operator.types import Apply, Delete, Object

RETRAIN = edit(training={"seed": 1})
BACK = edit(training=None)
REMERGE = edit(merge={"dtype": "bfloat16"})
ROLL = edit(serving={"maxModelLen": 2048})
SERVING_AGAIN = edit(serving=None)
SECOND = tuple(line.replace("r1", "r2") for line in FIRST if "NetworkPolicy" not in line)
KEEP = ("Apply Deployment demo-b1", "Apply Service demo-serve -> b1")
DONE = "Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving+"
SERVING_OLD = "Succeeded? Reconciling+ Suspended- DataReady{} Trained{} Merged{} Serving+"


def upgraded(cluster: Cluster) -> None:
    """Give the operator other images, another serving command and other defaults."""
    cluster.config = OperatorConfig.model_validate(
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
    "retrain edit while training": Case(
        given=(STAGED, running("train"), RETRAIN),
        actions=("Delete Job demo-r1-train-1 Foreground", *SECOND),
        ready="-Preparing",
        conditions="Succeeded? Reconciling+ Suspended- DataReady? Trained? Merged? Serving-",
    ),
    "the new training waits for the old pod": Case(
        given=(STAGED, running("train"), RETRAIN, settle, STAGED),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "the old pod is gone": Case(
        given=(STAGED, running("train"), RETRAIN, settle, STAGED, stop("train")),
        actions=("Create Job demo-r2-train-1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "retrain edit while serving": Case(
        given=(run_all, RETRAIN),
        actions=SECOND,
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "the old build serves while the new one is merged": Case(
        given=(run_all, RETRAIN, STAGED, TRAINED, settle),
        ready="-Merging",
        conditions=SERVING_OLD.format("+", "+", "?"),
    ),
    "the new build starts beside the old one": Case(
        given=(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync),
        actions=("Apply Deployment demo-b2",),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "the Service moves to the new build": Case(
        given=(
            *(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
        ),
        actions=("Apply Deployment demo-b2", "Apply Service demo-serve -> b2"),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "the old Deployment goes after that": Case(
        given=(
            *(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
            lambda cluster: cluster.look(),
        ),
        actions=(
            "Apply Deployment demo-b2",
            "Apply Service demo-serve -> b2",
            "Delete Deployment demo-b1 Foreground",
        ),
        ready="+Serving",
        conditions=DONE,
    ),
    "it is deleted once": Case(
        given=(
            *(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            sync,
            settle,
        ),
        actions=("Apply Deployment demo-b2", "Apply Service demo-serve -> b2"),
        ready="+Serving",
        conditions=DONE,
    ),
    "back to what still serves": Case(
        given=(run_all, RETRAIN, STAGED, running("train"), BACK),
        actions=("Delete Job demo-r2-train-1 Foreground", *KEEP),
        ready="+Serving",
        conditions=DONE,
    ),
    "back to an earlier revision trains nothing": Case(
        given=(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync, BACK),
        actions=(*KEEP, "Delete Deployment demo-b2 Foreground"),
        ready="+Serving",
        conditions=DONE,
    ),
    "back to an earlier revision that was stopped half-way": Case(
        given=(STAGED, running("train"), RETRAIN, settle, stop("train"), BACK),
        actions=("Delete Job demo-r2-prepare-1 Foreground", "Create Job demo-r1-train-2"),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "a candidate that nobody asks for any more goes before the next training": Case(
        given=(
            *(run_all, RETRAIN, STAGED, TRAINED, MERGED, settle, sync),
            edit(training={"seed": 2}),
        ),
        actions=(
            *(line.replace("r2", "r3") for line in SECOND),
            "Delete Deployment demo-b2 Foreground",
        ),
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "a rerun value trains again": Case(
        given=(run_all, edit(rerun="2030-01-02")),
        actions=SECOND,
        ready="-Preparing",
        conditions=SERVING_OLD.format("?", "?", "?"),
    ),
    "merge edit": Case(
        given=(run_all, REMERGE),
        actions=("Create Job demo-r1-merge-2",),
        ready="-Merging",
        conditions=SERVING_OLD.format("+", "+", "?").replace("Succeeded?", "Succeeded+"),
    ),
    "merge edit while merging": Case(
        given=(STAGED, TRAINED, running("merge"), REMERGE),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="-WaitingForPod",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
    "back to what was merged before": Case(
        given=(
            *(run_all, REMERGE, MERGED, settle, sync),
            lambda cluster: controllers.start(cluster, newest_server(cluster)),
            *(sync, settle, edit(merge=None)),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving+",
    ),
    "roll edit": Case(
        given=(run_all, ROLL),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "the pods of a roll edit": Case(
        given=(run_all, ROLL, settle),
        actions=("Apply Deployment demo-b1",),
        ready="-Restarting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "serving off": Case(
        given=(run_all, NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "the serving pod still ends": Case(
        given=(run_all, NO_SERVING, settle, sync, sync),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "serving is off": Case(
        given=(run_all, NO_SERVING, stop("serve")),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Merged+",
    ),
    "serving off while the next revision trains": Case(
        given=(run_all, RETRAIN, STAGED, running("train"), NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "serving off while suspended": Case(
        given=(run_all, RETRAIN, SUSPEND, NO_SERVING),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="-SuspendedByUser",
        conditions="Succeeded? Suspended+ DataReady? Trained? Merged? Serving-",
    ),
    "serving on again": Case(
        given=(run_all, NO_SERVING, stop("serve"), SERVING_AGAIN),
        actions=KEEP,
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "merge off": Case(
        given=(run_all, all_of(NO_SERVING, edit(merge={"enabled": False}))),
        actions=("Delete Deployment demo-b1 Foreground", "Delete Service demo-serve Foreground"),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+ Serving-",
    ),
    "merge off while merging": Case(
        given=(
            *(NO_SERVING, STAGED, TRAINED, running("merge")),
            edit(merge={"enabled": False}),
        ),
        actions=("Delete Job demo-r1-merge-1 Foreground",),
        ready="+Completed",
        conditions="Succeeded+ Suspended- DataReady+ Trained+",
    ),
    "merge on again": Case(
        given=(
            edit(serving={"enabled": False}, merge={"enabled": False}),
            *(STAGED, TRAINED, settle, edit(merge=None)),
        ),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged?",
    ),
    "a Service that was deleted comes back": Case(
        given=(run_all, delete("Service", "demo-serve"), sync),
        actions=KEEP,
        ready="-Starting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "a Service that was deleted comes back to the old build": Case(
        given=(run_all, RETRAIN, STAGED, settle, delete("Service", "demo-serve"), sync),
        actions=("Apply Service demo-serve -> b1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "a Deployment that was deleted comes back": Case(
        given=(
            *(run_all, delete("Deployment", "demo-B"), sync),
            lambda cluster: controllers.stop(cluster, newest_server(cluster)),
            *(sync, sync),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Restarting",
        conditions="Succeeded+ Reconciling+ Suspended- DataReady+ Trained+ Merged+ Serving-",
    ),
    "the Deployment that serves while the next revision trains comes back too": Case(
        given=(
            *(run_all, RETRAIN, STAGED, running("train"), delete("Deployment", "demo-b1"), sync),
            lambda cluster: controllers.stop(cluster, controllers.pod_of_stage(cluster, "serve")),
            *(sync, sync),
        ),
        actions=("Apply Deployment demo-b1",),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "metadata and the pace of saving change nothing": Case(
        given=(run_all, edit(training={"advanced": {"saveSteps": 7, "loggingSteps": 3}})),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "a value that is spelled out changes nothing": Case(
        given=(run_all, edit(training={"learningRate": 2e-4, "lora": {"r": 16}})),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "an upgrade changes nothing for what serves": Case(
        given=(run_all, upgraded),
        actions=KEEP,
        ready="+Serving",
        conditions=DONE,
    ),
    "an upgrade changes nothing for what trains": Case(
        given=(STAGED, running("train"), upgraded),
        ready="-Training",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained? Merged? Serving-",
    ),
    "an upgrade changes nothing for what is left to do": Case(
        given=(STAGED, running("train"), upgraded, TRAINED),
        actions=("Create Job demo-r1-merge-1",),
        ready="-Merging",
        conditions="Succeeded? Reconciling+ Suspended- DataReady+ Trained+ Merged? Serving-",
    ),
}


def newest_server(cluster: Cluster) -> dict[str, Any]:
    """Return the serving pod that came last."""
    pods = [pod for pod in cluster.each("Pod") if pod["metadata"]["labels"].get(STAGE) == "serve"]
    return pods[-1]


STAGE = "finetune.dev/stage"
BUILT_IN = builtin_defaults()


@pytest.mark.parametrize("name", CASES)
def test_look(name: str) -> None:
    case = CASES[name]
    planned, told = tell(Cluster(), case)
    assert told == expected(case)
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


def test_a_revision_that_is_gone_begins_anew_with_the_defaults_of_that_moment() -> None:
    """Asked for again while it is being collected, it has its old ConfigMap until that is gone."""
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


def test_a_frozen_setting_that_a_later_operator_no_longer_knows_is_no_obstacle() -> None:
    cluster = Cluster()
    controllers.run_all(cluster)
    (frozen,) = cluster.each("ConfigMap")
    text = frozen["data"]["operator.json"]
    frozen["data"]["operator.json"] = text.replace("{", '{"retired": {"setting": 1},', 1)
    assert stored(cluster.plan().status) == cluster.status
    assert not any(isinstance(action, Delete) for action in cluster.plan().actions)


def test_a_revision_of_a_newer_operator_is_not_trained_again_by_one_that_was_rolled_back() -> None:
    """Its defaults have a field that this version lacks: no revision of ours could be equal."""
    cluster = Cluster()
    controllers.run_all(cluster)
    (frozen,) = cluster.each("ConfigMap")
    settings = json.loads(frozen["data"]["operator.json"])
    settings["defaults"]["training"]["fieldToCome"] = 7
    frozen["data"]["operator.json"] = json.dumps(settings)
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


def number_format(deployment: Object) -> str:
    """Return what a Deployment's ``--dtype`` is."""
    container, _ = deployment["spec"]["template"]["spec"]["containers"]
    arguments: list[str] = container["args"]
    return arguments[arguments.index("--dtype") + 1]
