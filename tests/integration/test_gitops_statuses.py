"""Argo CD's health check and kstatus, on statuses that an operator wrote to a real API server.

``tests/gitops`` creates every situation in memory. These tests create the same situations on a real
API server, except those that take days, need another controller, or need a spec that the server
rejects. The conditions of each status must equal those of the status from memory.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.integration.test_queueing import kueue, train_jobs
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace, train_has_run
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.api_server.scenarios import Scenario, ScenarioRunner
from tests.support.gitops import kstatus, lua
from tests.support.gitops.healths import EXPECTED, JOBS

pytestmark = pytest.mark.usefixtures("controller_manager")

PodStatuses = Mapping[str, Callable[[], dict[str, Any]]]
"""Functions that return the status of a pod, by stage; other pods stay unchanged."""


def done(*stages: str) -> PodStatuses:
    return {stage: partial(kubelet.completed, stage) for stage in stages}


def failing(stage: str, code: int, reason: str) -> PodStatuses:
    return {
        stage: partial(
            kubelet.failed, stage, code=code, reason=reason, message="injected by the test"
        )
    }


def edit(**spec: Any) -> Callable[[Namespace], object]:
    return lambda place: place.plane.merge(place.path("finetunejobs", "demo"), {"spec": spec})


def hold(place: Namespace) -> None:
    """Suspend the train Job as Kueue does; the status names the Job before it exists."""
    wait_until("a train Job exists", lambda: bool(train_jobs(place)))
    kueue(place, train_jobs(place)[0], {"suspend": True})


def lose_endpoint(place: Namespace) -> None:
    """Report the serving pod as not ready."""
    (pod,) = (each for each in place.items("pods") if kubelet.stage_of(each) == "serve")
    kubelet.report(place, pod, {"conditions": [{"type": "Ready", "status": "False"}]})


STAGED, TRAINED, MERGED = (
    done("prepare"),
    done("prepare", "train"),
    done("prepare", "train", "merge"),
)
RUNNING: PodStatuses = {**STAGED, "train": kubelet.running}
BROKEN: PodStatuses = {**STAGED, "train": partial(kubelet.ended, 1)}
SERVING: PodStatuses = {**MERGED, "serve": kubelet.serving}
WAITING: PodStatuses = {
    "prepare": partial(kubelet.waiting, "CreateContainerConfigError", 'secret "hf-token" not found')
}
IMPATIENT = {"runPolicy": {"backoffLimit": 0, "pendingDeadlineSeconds": 30}}


@dataclass(frozen=True, kw_only=True)
class Story:
    """The steps that create a situation.

    pods: statuses of pods; at: state in which ``then`` is called; pods_after: statuses of pods that
    are created after ``then``.
    """

    spec: Mapping[str, Any] = field(default_factory=dict)
    pods: PodStatuses = field(default_factory=dict)
    at: Callable[[Mapping[str, Any]], bool] = train_has_run
    then: Callable[[Namespace], object] | None = None
    pods_after: PodStatuses = field(default_factory=dict)


def reported(job: Mapping[str, Any]) -> set[tuple[str, ...]]:
    """Return type, status and reason of the conditions that are about the current generation."""
    status = job.get("status", {})
    if status.get("observedGeneration") != job["metadata"]["generation"]:
        return set()
    return {(each["type"], each["status"], each["reason"]) for each in status["conditions"]}


def ready_has(reason: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda job: reason in {each[2] for each in reported(job) if each[0] == "Ready"}


STORIES = {
    "preparing": Story(),
    "training": Story(pods=STAGED),
    "merging": Story(pods=TRAINED),
    "starting": Story(pods=MERGED),
    "queued": Story(pods=STAGED, at=ready_has("Training"), then=hold),
    "preempted": Story(pods=RUNNING, then=hold),
    "suspended": Story(pods=RUNNING, then=edit(suspend=True)),
    "suspended-before-start": Story(spec={"suspend": True}),
    "secret-missing": Story(pods=WAITING),
    "secret-missing-for-long": Story(pods=WAITING, spec=IMPATIENT),
    "dataset-invalid": Story(pods=failing("prepare", 65, "DatasetInvalid")),
    "cuda-out-of-memory": Story(pods={**STAGED, **failing("train", 80, "CUDAOutOfMemory")}),
    "budget-exceeded": Story(pods={**STAGED, **failing("train", 85, "BudgetExceeded")}),
    "retries-exhausted": Story(pods=BROKEN, spec=IMPATIENT),
    "completed": Story(spec={"serving": {"enabled": False}}, pods=MERGED),
    "serving": Story(pods=SERVING),
    "serving-and-suspended": Story(pods=SERVING, at=ready_has("Serving"), then=edit(suspend=True)),
    "endpoint-lost": Story(pods=SERVING, at=ready_has("Serving"), then=lose_endpoint),
    "candidate-failed": Story(
        pods=SERVING,
        at=ready_has("Serving"),
        then=edit(merge={"dtype": "bfloat16"}),
        pods_after={**MERGED, "serve": partial(kubelet.mismatch, "distance 0.31")},
    ),
}


def test_every_situation_is_reported_as_in_memory(
    operator: OperatorProcess, control_plane: ControlPlane
) -> None:
    places = {control_plane.namespace(f"gitops-{name}"): name for name in STORIES}
    found: dict[str, dict[str, Any]] = {}
    changed: set[str] = set()

    def pod_status(pod: dict[str, Any]) -> dict[str, Any] | None:
        story = STORIES.get(places.get(pod["metadata"]["namespace"], ""), Story())
        pods = story.pods_after if pod["metadata"]["namespace"] in changed else story.pods
        named = pods.get(kubelet.stage_of(pod))
        return None if named is None else named()

    runner = ScenarioRunner(plane=control_plane, pod_status=pod_status)

    def scenario(place: Namespace, name: str, story: Story) -> Scenario:
        def job() -> dict[str, Any]:
            return runner.jobs[place.name, "demo"]

        found["unobserved"] = place.submit(spec=story.spec)
        if story.then is not None:
            yield f"{name} can be started", lambda: bool(reported(job())) and story.at(job())
            changed.add(place.name)
            story.then(place)
        yield name, lambda: reported(job()) == reported(JOBS[name])
        found[name] = job()
        place.plane.delete(place.path("finetunejobs", "demo"))

    for namespace, name in places.items():
        runner.begin(name, scenario(Namespace(control_plane, namespace), name, STORIES[name]))
    runner.until("every situation has been created", lambda: not runner.unfinished)

    taken = {
        name: (health["status"], kstatus.of(found[name]))
        for name, health in zip(found, lua.run("health.lua", *found.values()), strict=True)
    }
    assert taken == {name: EXPECTED[name] for name in taken}
