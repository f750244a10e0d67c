"""A job in the queue of a real Kueue: held back, admitted, preempted, and admitted again.

What Kueue writes to a Job is played elsewhere (``test_queueing``); here it decides by itself, with
its webhooks in the way of every Job. The pods are played.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.integration import controlplane, kubelet, kueue
from tests.integration.controlplane import ControlPlane, wait_until
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import OperatorProcess, operator

FLAVOR = {"flavor": "on-demand"}
STAGE = "finetune.dev/stage"
GPU = "nvidia.com/gpu"
RESOURCES = ("cpu", "memory", GPU)
PREEMPTION = {"withinClusterQueue": "LowerPriority"}
PRIORITIES = {"research": 1, "urgent": 1000}
SPEC: Mapping[str, Any] = {"queueName": "gpu", "workloadPriorityClassName": "research"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own, since Kueue's webhooks stand before every Job and pod of it."""
    folder = tmp_path_factory.mktemp("kueue")
    with (
        controlplane.control_plane(folder) as running,
        controlplane.controller_manager(running),
        kueue.manager(running, folder),
    ):
        yield running


@pytest.fixture
def place(plane: ControlPlane) -> Namespace:
    """A namespace with a queue for one GPU."""
    place = Namespace(plane, plane.namespace("team"))
    kueue.create(plane, "ResourceFlavor", "on-demand", spec={"nodeLabels": FLAVOR})
    kueue.create(plane, "ClusterQueue", "gpus", spec=_quota(gpus=0))
    kueue.create(plane, "LocalQueue", "gpu", place.name, spec={"clusterQueue": "gpus"})
    for name, value in PRIORITIES.items():
        kueue.create(plane, "WorkloadPriorityClass", name, value=value)
    return place


@pytest.fixture
def running(plane: ControlPlane, place: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator(plane, tmp_path) as found:
        yield found


def _quota(*, gpus: int) -> dict[str, Any]:
    amounts = {"cpu": "100", "memory": "100Gi", GPU: gpus}
    quotas = [{"name": name, "nominalQuota": amounts[name]} for name in RESOURCES]
    flavors = [{"name": "on-demand", "resources": quotas}]
    return {
        "namespaceSelector": {},
        "preemption": PREEMPTION,
        "resourceGroups": [{"coveredResources": list(RESOURCES), "flavors": flavors}],
    }


def pod_of(place: Namespace, label: str, value: str, *, other_than: str = "") -> dict[str, Any]:
    """Wait for the pod that has a label, and is not the one with this uid; return it."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [
            pod
            for pod in place.items("pods")
            if pod["metadata"]["labels"].get(label) == value
            and pod["metadata"]["uid"] != other_than
            and not pod["metadata"].get("deletionTimestamp")
        ]
        return bool(found)

    wait_until(f"there is a pod of {value}", look)
    return found[0]


def train(place: Namespace, *, other_than: str = "") -> str:
    """Run the train Job's pod, which is where the queue sends it; return its uid."""
    pod = pod_of(place, STAGE, "train", other_than=other_than)
    assert pod["spec"]["nodeSelector"] == FLAVOR
    kubelet.report(place, pod, kubelet.running())
    wait_until("it trains", lambda: place.reason() == "Training")
    return str(pod["metadata"]["uid"])


def urgent(place: Namespace) -> None:
    """Ask for the GPU on behalf of somebody who is more important."""
    queue = {"kueue.x-k8s.io/queue-name": "gpu", "kueue.x-k8s.io/priority-class": "urgent"}
    limits = {GPU: "1", "cpu": "1", "memory": "1Gi"}
    container = {"name": "work", "image": "registry.test/other:1", "resources": {"limits": limits}}
    pod = {"restartPolicy": "Never", "containers": [container]}
    body = {"metadata": {"name": "urgent", "labels": queue}, "spec": {"template": {"spec": pod}}}
    place.plane.post(place.path("jobs"), body)


def suspended(place: Namespace, name: str) -> str:
    """Return the reason of the condition Suspended of a job that is under way all the same."""
    assert place.reason() == name
    assert place.condition("Reconciling")["status"] == "True"
    assert place.condition("Stalled") == {}
    found = place.condition("Suspended")
    assert found["status"] == "True"
    return str(found["reason"])


def test_a_job_in_the_queue_of_kueue(running: OperatorProcess, place: Namespace) -> None:
    place.submit(spec=SPEC)
    kubelet.report(place, pod_of(place, STAGE, "stage"), kubelet.completed("stage"))

    wait_until("it is queued", lambda: place.reason() == "Queued")
    assert suspended(place, "Queued") == "Queued"
    assert not [pod for pod in place.items("pods") if kubelet.stage_of(pod) == "train"]

    place.plane.merge(f"{kueue.API}/clusterqueues/gpus", {"spec": _quota(gpus=1)})
    first = train(place)
    assert place.condition("Suspended")["status"] == "False"

    urgent(place)
    wait_until("it is preempted", lambda: place.reason() == "Preempted")
    assert suspended(place, "Preempted") == "Preempted"
    others = pod_of(place, "batch.kubernetes.io/job-name", "urgent")

    kubelet.report(place, others, kubelet.completed("train"))
    again = train(place, other_than=first)
    pod = pod_of(place, STAGE, "train")
    assert pod["metadata"]["uid"] == again
    kubelet.report(place, pod, kubelet.completed("train"))
    kubelet.report(place, pod_of(place, STAGE, "merge"), kubelet.completed("merge"))
    kubelet.report(place, pod_of(place, STAGE, "serve"), kubelet.serving())
    wait_until("it serves", lambda: place.reason() == "Serving")

    training = place.job()["status"]["training"]
    assert (training["attempt"], training["preemptions"]) == (1, 1)
    jobs = {job["metadata"]["name"]: job for job in place.items("jobs")}
    owners = [each["metadata"]["ownerReferences"][0] for each in kueue.workloads(place)]
    queued = {owner["name"] for owner in owners}
    assert queued == {name for name in jobs if "train" in name or name == "urgent"}
    assert len(jobs) == 4, "one Job a stage, and the other's"
    for name in jobs.keys() - queued:
        assert jobs[name]["spec"]["suspend"] is False
    assert running.metric("controller_runtime_reconcile_errors_total") == 0
