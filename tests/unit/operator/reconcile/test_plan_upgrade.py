"""An upgrade from commit c4ef82fc, whose operator created the objects in ``states_c4ef82fc.json``.

``record_states`` wrote the file. The real upgrade is in tests/conformance/test_upgrade_cluster.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import controllers
from tests.fakes.apiserver import Cluster, Thing, copied

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).with_name("states_c4ef82fc.json").read_text(encoding="utf-8")
)
STAGES = ("prepare", "train", "merge")
STATES = (*STAGES, "serve", "ready")


def upgraded(state: str) -> Cluster:
    """Return a cluster with the job and the objects of the operator before the upgrade."""
    recorded = RECORDED["states"][state]
    cluster = Cluster()
    cluster.job = copied(recorded["job"])
    for number in recorded["objects"]:
        thing = copied(RECORDED["objects"][number])
        cluster.objects[thing["kind"], thing["metadata"]["name"]] = thing
    things = [recorded["job"], *cluster.objects.values()]
    cluster.version = max(int(thing["metadata"]["resourceVersion"]) for thing in things)
    cluster.identities = cluster.version
    return cluster


def trainers(cluster: Cluster, stage: str) -> list[tuple[str, list[str]]]:
    """Return image and arguments of the Jobs of a stage, oldest first."""
    containers = [
        job["spec"]["template"]["spec"]["containers"][0]
        for job in sorted(cluster.each("Job"), key=lambda job: str(job["metadata"]["name"]))
        if job["metadata"]["labels"]["finetune.dev/stage"] == stage
    ]
    return [(each["image"], each["args"]) for each in containers]


def templates(cluster: Cluster) -> dict[str, Thing]:
    """Return the pod templates of all Jobs and Deployments by uid."""
    return {
        thing["metadata"]["uid"]: copied(thing["spec"]["template"])
        for kind in ("Job", "Deployment")
        for thing in cluster.each(kind)
    }


@pytest.mark.parametrize("state", STATES)
def test_no_object_with_pods_changes(state: str) -> None:
    cluster = upgraded(state)
    before, status = templates(cluster), copied(cluster.status)
    cluster.settle()
    assert templates(cluster) == before
    assert cluster.status["revision"] == status["revision"]
    (now,), (then,) = cluster.status["revisions"], status["revisions"]
    assert now["frozen"] == then["frozen"]


@pytest.mark.parametrize("state", STATES[:-1])
def test_a_job_continues_with_the_image_of_its_revision(state: str) -> None:
    """Its stage completes, and later ones start: they are not in the recorded state."""
    cluster = upgraded(state)
    before = templates(cluster)
    for stage in STAGES:
        if STATES.index(stage) >= STATES.index(state):
            controllers.run(cluster, stage)
    controllers.serve(cluster)
    cluster.settle()
    assert before.items() <= templates(cluster).items()
    for stage in STAGES:
        ((image, words),) = trainers(cluster, stage)
        assert (image, words[:2]) == ("registry/trainer:1", [stage, "--config"])
    assert cluster.status["conditions"][0]["reason"] == "Serving"


@pytest.mark.parametrize("stage", STAGES)
def test_a_retry_has_the_arguments_of_the_failed_attempt(stage: str) -> None:
    cluster = upgraded(stage)
    controllers.run(cluster, stage, 81, controllers.message(stage, "failed", reason="Failed"))
    cluster.settle()
    cluster.edit(runPolicy={"backoffLimit": 7})
    cluster.settle()
    first, second = trainers(cluster, stage)
    assert first == second


def test_another_merge_starts_and_nothing_trains() -> None:
    cluster = upgraded("ready")
    cluster.edit(merge={"dtype": "float16"})
    cluster.settle()
    (first, words), (second, again) = trainers(cluster, "merge")
    assert first == second
    assert words[: words.index("--build")] == again[: again.index("--build")]
    assert len(trainers(cluster, "train")) == 1
    controllers.run(cluster, "merge")
    controllers.serve(cluster)
    cluster.settle()
    assert cluster.status["conditions"][0]["reason"] == "Serving"
