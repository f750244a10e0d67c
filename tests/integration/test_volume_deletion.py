"""A user deletes the volume of a serving job, which pvc-protection keeps while pods mount it."""

from collections.abc import Callable, Iterator

import pytest
from tests.integration.scheduler import Kubelet, Node
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")


@pytest.fixture(scope="module", autouse=True)
def kube_scheduler(controller_manager: ControlPlane) -> Iterator[None]:
    with controlplane.scheduler(controller_manager):
        yield


@pytest.fixture
def node(controller_manager: ControlPlane, place: Namespace) -> Iterator[Node]:
    found = Node(controller_manager, place.name, gpus=1)
    yield found
    found.delete()


def serving_pods(place: Namespace) -> set[str]:
    return {
        pod["metadata"]["uid"]
        for pod in place.items("pods")
        if pod["metadata"]["labels"]["finetune.dev/stage"] == "serve"
    }


def test_the_loss_is_reported_at_once_and_the_last_pods_are_kept_until_the_user_stops_them(
    operator: OperatorProcess, place: Namespace, node: Node
) -> None:
    kubelet = Kubelet(place, node)
    path = place.path("finetunejobs", "demo")

    def until(what: str, reached: Callable[[], bool]) -> None:
        def acted() -> bool:
            kubelet.act()
            return reached()

        wait_until(what, acted)

    def observed(generation: int) -> bool:
        return bool(place.job()["status"]["observedGeneration"] == generation)

    place.submit(spec={"placement": {"nodeSelector": {"tests/node": place.name}}})
    until("the job serves", lambda: place.reason() == "Serving")
    operator.settled()
    pods = serving_pods(place)
    (claim,) = place.items("persistentvolumeclaims")
    name = claim["metadata"]["name"]

    place.plane.delete(place.path("persistentvolumeclaims", name))
    until("the loss is reported", lambda: place.reason() == "VolumeLost")
    (claim,) = place.items("persistentvolumeclaims")
    assert "deletionTimestamp" in claim["metadata"]
    assert "ftj copy demo" in place.condition("Ready")["message"]
    assert place.condition("Serving")["status"] == "True"

    edit = {"spec": {"serving": {"extraArgs": ["--enforce-eager"]}}}
    generation = place.plane.merge(path, edit)["metadata"]["generation"]
    until("the edit is observed", lambda: observed(generation))
    operator.settled()
    kubelet.act()
    assert serving_pods(place) == pods
    assert place.reason() == "VolumeLost"
    assert {each["metadata"]["name"] for each in place.items("jobs")} == {
        f"{name}-{stage}-1" for stage in ("prepare", "train", "merge")
    }

    place.plane.merge(path, {"spec": {"serving": {"replicas": 0}}})
    until("the volume is gone", lambda: not place.items("persistentvolumeclaims"))
    until("the status names it", lambda: "was deleted" in place.condition("Ready")["message"])
    # The garbage collector deletes a Job after its pods, which mounted the claim.
    until("nothing is left", lambda: not place.items("pods") and not place.items("jobs"))
    operator.settled()
    assert place.reason() == "VolumeLost"
    reports = [each for each in place.items("events") if each["reason"] == "VolumeLost"]
    assert [(each["type"], each.get("series")) for each in reports] == [("Warning", None)]
    assert operator.failures() == []


def test_a_stage_starts_again_although_the_pods_of_earlier_stages_mount_the_deleted_volume(
    operator: OperatorProcess, place: Namespace, node: Node
) -> None:
    kubelet = Kubelet(place, node)
    kubelet.held = {"train"}

    def training() -> bool:
        kubelet.act()
        (claim,) = place.items("persistentvolumeclaims") or [{"metadata": {"uid": deleted}}]
        mounted = [
            pod
            for pod in place.items("pods")
            if pod["metadata"]["labels"]["finetune.dev/stage"] == "train"
            and "nodeName" in pod["spec"]
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return bool(mounted) and claim["metadata"]["uid"] != deleted

    deleted = ""
    place.submit(spec={"placement": {"nodeSelector": {"tests/node": place.name}}})
    wait_until("the job trains", training)
    (claim,) = place.items("persistentvolumeclaims")
    deleted = claim["metadata"]["uid"]
    place.plane.delete(place.path("persistentvolumeclaims", claim["metadata"]["name"]))
    wait_until("the job trains on another volume", training)
    assert operator.failures() == []
