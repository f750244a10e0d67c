"""Rollout of a new build while an old one serves, with the real scheduler and one or two GPUs."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.scheduler import Kubelet, Node
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace, condition_of
from tests.support.api_server.operatorprocess import OperatorProcess
from tests.support.variants import variants

pytestmark = pytest.mark.usefixtures("controller_manager")

BUILD = "finetune.dev/build"


@pytest.fixture(scope="module", autouse=True)
def kube_scheduler(controller_manager: ControlPlane) -> Iterator[None]:
    with controlplane.scheduler(controller_manager):
        yield


@pytest.fixture
def node(controller_manager: ControlPlane, place: Namespace, gpus: int) -> Iterator[Node]:
    """A node for the pods of the namespace only."""
    found = Node(controller_manager, place.name, gpus)
    yield found
    found.delete()


def submit(place: Namespace, **serving: Any) -> None:
    place.plane.post(
        place.path("finetunejobs"),
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "demo"},
            "spec": {
                "model": {"source": "hf://acme/base"},
                "dataset": {"source": "hf://acme/data", "format": "alpaca"},
                "placement": {"nodeSelector": {"tests/node": place.name}},
                "serving": serving,
            },
        },
    )


def selected(place: Namespace) -> str:
    (service,) = place.items("services")
    return str(service["spec"]["selector"][BUILD])


def deployments(place: Namespace) -> dict[str, tuple[int, int]]:
    """Return the desired and the available replicas of each build."""
    return {
        each["metadata"]["labels"][BUILD]: (
            each["spec"]["replicas"],
            each.get("status", {}).get("availableReplicas", 0),
        )
        for each in place.items("deployments")
    }


def replicas_of_selected_build(place: Namespace) -> int:
    """Return the available replicas of the build that the Service selects.

    The Service may change between two requests, so it is read before and after the Deployments.
    """
    while True:
        build = selected(place)
        found = deployments(place)
        if selected(place) == build:
            return found.get(build, (0, 0))[1]


def wait_for_reason(kubelet: Kubelet, reason: str, *, build: str | None = None) -> list[int]:
    """Let the kubelet act until Ready has the reason, and until the serving build is not ``build``.

    Return the number of available replicas of the selected build after each change.
    """
    place, snapshot = kubelet.place, [-1]

    def reached() -> bool:
        kubelet.act()
        if place.items("services"):
            available = replicas_of_selected_build(place)
            if available != snapshot[-1]:
                snapshot.append(available)
        job = place.job()
        serving = job.get("status", {}).get("serving", {})
        return condition_of(job, "Ready").get("reason") == reason and serving.get("build") != build

    wait_until(f"Ready has reason {reason}", reached)
    return snapshot[1:]


@pytest.mark.parametrize(
    ("rollout", "gpus"),
    variants([("KeepServing", 2), ("FreeGPU", 1), ("Auto", 1)], kept=[("Auto", 1)]),
    ids=str,
)
def test_a_new_revision_replaces_the_old_one(
    operator: OperatorProcess, place: Namespace, node: Node, rollout: str, gpus: int
) -> None:
    kubelet = Kubelet(place, node)
    submit(place, rollout=rollout, releaseAfterSeconds=5)
    wait_for_reason(kubelet, "Serving")
    old = selected(place)
    kubelet.held = {"prepare", "train"}
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"training": {"seed": 7}}})
    assert wait_for_reason(kubelet, "Preparing") == [1]
    operator.settled()
    assert deployments(place) == {old: (1, 1)}
    kubelet.held = {"train"}
    wait_for_reason(kubelet, "Training")

    def training() -> bool:
        kubelet.act()
        return any(
            pod["metadata"]["labels"]["finetune.dev/stage"] == "train"
            and pod["status"]["phase"] != "Succeeded"
            and "nodeName" in pod["spec"]
            for pod in place.items("pods")
        )

    wait_until("the train pod has a GPU", training)
    planned = [
        each["note"] for each in place.items("events") if each["reason"] == "GPUReleasePlanned"
    ]
    assert len(planned) == (rollout == "Auto"), planned
    left = {old: (1, 1) if gpus == 2 else (0, 0)}

    def as_planned() -> bool:
        kubelet.act()
        return deployments(place) == left

    wait_until("the serving pod keeps or releases its GPU", as_planned)
    kubelet.held = set()
    available = wait_for_reason(kubelet, "Serving", build=old)

    def only_selected_build() -> bool:
        kubelet.act()
        return list(deployments(place)) == [selected(place)]

    wait_until("the old build is deleted", only_selected_build)
    assert selected(place) != old
    if gpus == 2:
        assert 0 not in available, "the selected build always has an available replica"
    assert operator.failures() == []


@pytest.mark.parametrize("gpus", [1])
def test_a_suspended_training_releases_the_gpu(
    operator: OperatorProcess, place: Namespace, node: Node, gpus: int
) -> None:
    kubelet = Kubelet(place, node)
    submit(place, rollout="FreeGPU")
    wait_for_reason(kubelet, "Serving")
    kubelet.held = {"train"}
    path = place.path("finetunejobs", "demo")
    place.plane.merge(path, {"spec": {"training": {"seed": 7}}})
    wait_for_reason(kubelet, "Training")

    def has(*counts: int) -> bool:
        kubelet.act()
        return list(deployments(place).values()) == [counts]

    wait_until("the GPU is free", lambda: has(0, 0))
    place.plane.merge(path, {"spec": {"suspend": True}})
    wait_until("the old build serves again", lambda: has(1, 1))
    assert place.reason() == "SuspendedByUser"
