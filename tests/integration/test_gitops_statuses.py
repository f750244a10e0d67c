"""Argo CD's health check and kstatus, on statuses that an operator wrote to a real API server.

``tests/gitops`` brings every situation about in memory. Here those are brought about for real that
need no days, no other controller and no spec that the server refuses; each status must tell the
same, condition by condition.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.gitops import kstatus, lua
from tests.gitops.test_health import EXPECTED, JOBS
from tests.integration.controlplane import ControlPlane, wait_until
from tests.integration.fleet import Fleet, Life
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import OperatorProcess
from tests.integration.test_queueing import kueue, train_jobs

pytestmark = pytest.mark.usefixtures("controller_manager")

Fates = Mapping[str, Callable[[], dict[str, Any]]]
"""What becomes of a stage's pod; of one that is not named, nothing."""


def done(*stages: str) -> Fates:
    return {stage: partial(kubelet.completed, stage) for stage in stages}


def failing(stage: str, code: int, reason: str) -> Fates:
    return {stage: partial(kubelet.failed, stage, code=code, reason=reason, message="so it is")}


def edit(**spec: Any) -> Callable[[Namespace], object]:
    return lambda place: place.plane.merge(place.path("finetunejobs", "demo"), {"spec": spec})


def hold(place: Namespace) -> None:
    """Suspend the train Job as Kueue does; the status names the Job before it exists."""
    wait_until("there is a train Job", lambda: bool(train_jobs(place)))
    kueue(place, train_jobs(place)[0], {"suspend": True})


def lose_endpoint(place: Namespace) -> None:
    """Let what serves answer no more."""
    (pod,) = (each for each in place.items("pods") if kubelet.stage_of(each) == "serve")
    kubelet.report(place, pod, {"conditions": [{"type": "Ready", "status": "False"}]})


def has_run(job: Mapping[str, Any]) -> bool:
    (record,) = job["status"]["revisions"]
    return ("train", True) in ((each["stage"], each.get("hasRun")) for each in record["stages"])


STAGED, TRAINED, MERGED = (
    done("prepare"),
    done("prepare", "train"),
    done("prepare", "train", "merge"),
)
RUNNING: Fates = {**STAGED, "train": kubelet.running}
BROKEN: Fates = {**STAGED, "train": partial(kubelet.ended, 1)}
SERVING: Fates = {**MERGED, "serve": kubelet.serving}
WAITING: Fates = {
    "prepare": partial(kubelet.waiting, "CreateContainerConfigError", 'secret "hf-token" not found')
}
IMPATIENT = {"runPolicy": {"backoffLimit": 0, "pendingDeadlineSeconds": 30}}


@dataclass(frozen=True, kw_only=True)
class Story:
    """How a situation comes about.

    at: when ``then`` is done; later: what becomes of pods that are made after that.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    fates: Fates = field(default_factory=dict)
    at: Callable[[Mapping[str, Any]], bool] = has_run
    then: Callable[[Namespace], object] | None = None
    later: Fates = field(default_factory=dict)


def reported(job: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return what a job's conditions say of its present generation; of an earlier one nothing."""
    status = job.get("status", {})
    if status.get("observedGeneration") != job["metadata"]["generation"]:
        return set()
    return {(each["type"], each["status"], each["reason"]) for each in status["conditions"]}


def says(reason: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda job: reason in {each[2] for each in reported(job) if each[0] == "Ready"}


STORIES = {
    "preparing": Story(),
    "training": Story(fates=STAGED),
    "merging": Story(fates=TRAINED),
    "starting": Story(fates=MERGED),
    "queued": Story(fates=STAGED, at=says("Training"), then=hold),
    "preempted": Story(fates=RUNNING, then=hold),
    "suspended": Story(fates=RUNNING, then=edit(suspend=True)),
    "suspended-before-start": Story(spec={"suspend": True}),
    "secret-missing": Story(fates=WAITING),
    "secret-missing-for-long": Story(fates=WAITING, spec=IMPATIENT),
    "dataset-invalid": Story(fates=failing("prepare", 65, "DatasetInvalid")),
    "cuda-out-of-memory": Story(fates={**STAGED, **failing("train", 80, "CUDAOutOfMemory")}),
    "budget-exceeded": Story(fates={**STAGED, **failing("train", 85, "BudgetExceeded")}),
    "retries-exhausted": Story(fates=BROKEN, spec=IMPATIENT),
    "completed": Story(spec={"serving": {"enabled": False}}, fates=MERGED),
    "serving": Story(fates=SERVING),
    "serving-and-suspended": Story(fates=SERVING, at=says("Serving"), then=edit(suspend=True)),
    "endpoint-lost": Story(fates=SERVING, at=says("Serving"), then=lose_endpoint),
    "candidate-failed": Story(
        fates=SERVING,
        at=says("Serving"),
        then=edit(merge={"dtype": "bfloat16"}),
        later={**MERGED, "serve": partial(kubelet.mismatch, "distance 0.31")},
    ),
}


def test_every_situation_is_reported_as_in_memory(
    operator: OperatorProcess, control_plane: ControlPlane
) -> None:
    places = {control_plane.namespace(f"gitops-{name}"): name for name in STORIES}
    found: dict[str, dict[str, Any]] = {}
    changed: set[str] = set()

    def fate(pod: dict[str, Any]) -> dict[str, Any] | None:
        story = STORIES.get(places.get(pod["metadata"]["namespace"], ""), Story())
        fates = story.later if pod["metadata"]["namespace"] in changed else story.fates
        named = fates.get(kubelet.stage_of(pod))
        return None if named is None else named()

    fleet = Fleet(plane=control_plane, fate=fate)

    def life(place: Namespace, name: str, story: Story) -> Life:
        def job() -> dict[str, Any]:
            return fleet.jobs[place.name, "demo"]

        found["unobserved"] = place.submit(spec=story.spec)
        if story.then is not None:
            yield f"{name} is to come", lambda: bool(reported(job())) and story.at(job())
            changed.add(place.name)
            story.then(place)
        yield name, lambda: reported(job()) == reported(JOBS[name])
        found[name] = job()
        place.plane.delete(place.path("finetunejobs", "demo"))

    for namespace, name in places.items():
        fleet.begin(name, life(Namespace(control_plane, namespace), name, STORIES[name]))
    fleet.until("every situation has come", lambda: not fleet.alive)

    taken = {
        name: (health["status"], kstatus.of(found[name]))
        for name, health in zip(found, lua.run("health.lua", *found.values()), strict=True)
    }
    assert taken == {name: EXPECTED[name] for name in taken}
