"""A job in a queue of a real Kueue: queued, admitted, preempted, admitted again, and given up.

``test_queueing`` simulates the writes of Kueue. Here the real Kueue decides, and its webhooks check
every Job. The pods are simulated.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.kueue import manager as kueue
from tests.support.api_server import controlplane
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace, train_has_run
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess, operator
from tests.support.api_server.rbac import RBAC, may, wait_until_granted
from tests.support.helm import render

ACCOUNT = "system:serviceaccount:finetune-system:finetune-operator"
FLAVOR = {"flavor": "on-demand"}
STAGE = "finetune.dev/stage"
GPU = "nvidia.com/gpu"
RESOURCES = ("cpu", "memory", GPU)
PREEMPTION = {"withinClusterQueue": "LowerPriority"}
PRIORITIES = {"research": 1, "urgent": 1000}
SPEC: Mapping[str, Any] = {"queueName": "gpu", "workloadPriorityClassName": "research"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A separate control plane, because the webhooks of Kueue apply to all its Jobs and pods."""
    folder = tmp_path_factory.mktemp("kueue")
    with (
        controlplane.control_plane(folder) as running,
        controlplane.controller_manager(running),
        kueue.running(running, folder),
    ):
        kueue.create(running, "ResourceFlavor", "on-demand", spec={"nodeLabels": FLAVOR})
        for name, value in PRIORITIES.items():
            kueue.create(running, "WorkloadPriorityClass", name, value=value)
        yield running


@pytest.fixture
def place(plane: ControlPlane) -> Namespace:
    """A namespace with a queue for one GPU."""
    place = Namespace(plane, plane.namespace(f"team-{uuid.uuid4().hex[:8]}"))
    kueue.create(plane, "ClusterQueue", place.name, spec=_quota(gpus=0))
    kueue.create(plane, "LocalQueue", "gpu", place.name, spec={"clusterQueue": place.name})
    return place


@pytest.fixture
def running(plane: ControlPlane, place: Namespace, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator(plane, tmp_path) as found:
        yield found


def _quota(*, gpus: int, flavor: str = "on-demand") -> dict[str, Any]:
    amounts = {"cpu": "100", "memory": "100Gi", GPU: gpus}
    quotas = [{"name": name, "nominalQuota": amounts[name]} for name in RESOURCES]
    flavors = [{"name": flavor, "resources": quotas}]
    return {
        "namespaceSelector": {},
        "preemption": PREEMPTION,
        "resourceGroups": [{"coveredResources": list(RESOURCES), "flavors": flavors}],
    }


def _change(place: Namespace, spec: dict[str, Any], suffix: str = "") -> None:
    """Change the ClusterQueue of a namespace's LocalQueue."""
    place.plane.merge(f"{kueue.API}/clusterqueues/{place.name}{suffix}", {"spec": spec})


def pod_of(place: Namespace, label: str, value: str, *, other_than: str = "") -> dict[str, Any]:
    """Wait for the pod with this label whose uid is not the given one; return the pod."""
    found: list[dict[str, Any]] = []

    def found_pod() -> bool:
        found[:] = [
            pod
            for pod in place.items("pods")
            if pod["metadata"]["labels"].get(label) == value
            and pod["metadata"]["uid"] != other_than
            and not pod["metadata"].get("deletionTimestamp")
        ]
        return bool(found)

    wait_until(f"there is a pod of {value}", found_pod)
    return found[0]


def train(place: Namespace, *, other_than: str = "") -> str:
    """Run the pod of the train Job on the node of its flavor; return the uid of the pod."""
    pod = pod_of(place, STAGE, "train", other_than=other_than)
    assert pod["spec"]["nodeSelector"] == FLAVOR
    kubelet.report(place, pod, kubelet.running())
    # An admitted Job has the reason Training before its pod runs.
    wait_until("the operator has seen the pod run", lambda: train_has_run(place.job()))
    wait_until("it trains", lambda: place.reason() == "Training")
    return str(pod["metadata"]["uid"])


def urgent(place: Namespace, queue_name: str = "gpu") -> None:
    """Create a Job with a higher priority that requests the GPU."""
    queue = {"kueue.x-k8s.io/queue-name": queue_name, "kueue.x-k8s.io/priority-class": "urgent"}
    limits = {GPU: "1", "cpu": "1", "memory": "1Gi"}
    container = {"name": "work", "image": "registry.test/other:1", "resources": {"limits": limits}}
    pod = {"restartPolicy": "Never", "containers": [container]}
    body = {"metadata": {"name": "urgent", "labels": queue}, "spec": {"template": {"spec": pod}}}
    place.plane.post(place.path("jobs"), body)


def suspended(place: Namespace, name: str) -> str:
    """Return the reason of the condition Suspended of an unfinished job."""
    assert place.reason() == name
    assert place.condition("Reconciling")["status"] == "True"
    assert place.condition("Stalled") == {}
    found = place.condition("Suspended")
    assert found["status"] == "True"
    return str(found["reason"])


def assert_nothing_rejected(running: OperatorProcess) -> None:
    """Check that the webhooks of Kueue rejected no write, and that no reconcile keeps failing.

    A reconcile that failed because of a late answer and was repeated does not count.
    """
    running.settled()
    assert running.metric("controller_runtime_terminal_reconcile_errors_total") == 0
    assert "unexpected error" not in running.log.read_text(encoding="utf-8")


def test_a_job_in_the_queue_of_kueue(running: OperatorProcess, place: Namespace) -> None:
    place.submit(spec=SPEC)
    kubelet.report(place, pod_of(place, STAGE, "prepare"), kubelet.completed("prepare"))

    wait_until("it is queued", lambda: place.reason() == "Queued")
    assert suspended(place, "Queued") == "Queued"
    assert not [pod for pod in place.items("pods") if kubelet.stage_of(pod) == "train"]

    _change(place, _quota(gpus=1))
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
    assert_nothing_rejected(running)


def check(place: Namespace, job: str, pool: str) -> None:
    """Wait for the Workload of a Job; set its admission check to add a node pool to the pod."""

    def waiting() -> list[str]:
        return [
            str(each["metadata"]["name"])
            for each in kueue.workloads(place)
            if each["metadata"]["ownerReferences"][0]["name"] == job
            and each.get("status", {}).get("admissionChecks")
        ]

    wait_until(f"{job} is before its admission check", lambda: bool(waiting()))
    (name,) = waiting()
    passed = {
        "name": "pools",
        "state": "Ready",
        "message": "",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
        "podSetUpdates": [{"name": "main", "nodeSelector": {"pool": pool}}],
    }
    path = f"{kueue.API}/namespaces/{place.name}/workloads/{name}/status"
    place.plane.merge(path, {"status": {"admissionChecks": [passed]}})


def test_a_job_that_kueue_cannot_start_is_stalled_until_an_edit(
    running: OperatorProcess, place: Namespace
) -> None:
    kueue.create(place.plane, "AdmissionCheck", "pools", spec={"controllerName": "a.test/pools"})
    active = {
        "type": "Active",
        "status": "True",
        "reason": "Active",
        "message": "",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }
    path = f"{kueue.API}/admissionchecks/pools/status"
    place.plane.merge(path, {"status": {"conditions": [active]}})
    strategy = {"admissionChecksStrategy": {"admissionChecks": [{"name": "pools"}]}}
    _change(place, _quota(gpus=1) | strategy)
    place.submit(spec={**SPEC, "placement": {"nodeSelector": {"pool": "a"}}})
    kubelet.report(place, pod_of(place, STAGE, "prepare"), kubelet.completed("prepare"))
    revision = str(place.job()["status"]["revision"])
    check(place, f"demo-{revision}-train-1", "b")

    wait_until("it is given up", lambda: place.reason() == "FailedToStart")
    assert place.condition("Stalled")["reason"] == "FailedToStart"
    (given_up,) = [job for job in place.items("jobs") if "train" in job["metadata"]["name"]]
    assert given_up["spec"]["suspend"] is True
    (workload,) = kueue.workloads(place)
    label = f"kueue.x-k8s.io/job-uid={workload['metadata']['labels']['kueue.x-k8s.io/job-uid']} "
    assert label in place.condition("Ready")["message"], "the message reports the conflict"

    job = place.path("finetunejobs", "demo")
    place.plane.merge(job, {"spec": {"placement": {"nodeSelector": {"pool": "b"}}}})
    check(place, f"demo-{revision}-train-2", "b")
    pod = pod_of(place, STAGE, "train")
    assert pod["spec"]["nodeSelector"] == FLAVOR | {"pool": "b"}
    kubelet.report(place, pod, kubelet.running())
    wait_until("it trains", lambda: place.reason() == "Training")
    assert place.job()["status"]["training"]["attempt"] == 2
    assert_nothing_rejected(running)


READS: Mapping[str, Any] = {**CONFIG, "kueue": {"enabled": True}}
OFTEN = (
    "from finetune_operator import delays; "
    "delays.QUEUE_MISSING = delays.QUEUES_AGAIN = delays.PLACES = 0.5; "
    "delays.POLL = 1.0"
)
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4"}
PROFILES = "/apis/finetune.dev/v1alpha1/finetuneprofiles"


def test_a_job_of_a_profile_waits_for_its_queue_and_shows_its_place(
    plane: ControlPlane, place: Namespace, tmp_path: Path
) -> None:
    """The operator reads the queues with the rights of the chart."""
    rights = [
        each
        for each in render({"kueue": {"enabled": True}}).objects
        if each["metadata"]["name"] == "finetune-operator-kueue"
    ]
    for each in rights:
        plane.post(f"{RBAC}/{each['kind'].lower()}s", each)
    wait_until_granted(plane, rights)
    for resource in ("localqueues", "clusterqueues", "resourceflavors", "workloads"):
        assert may(plane, ACCOUNT, "list", "kueue.x-k8s.io", resource, "")
        assert not may(plane, ACCOUNT, "update", "kueue.x-k8s.io", resource, "")
    name = f"{place.name}-l4"
    kueue.create(plane, "ResourceFlavor", "l4", spec={"nodeLabels": L4})
    kueue.create(plane, "ClusterQueue", name, spec=_quota(gpus=0, flavor="l4"))
    kind = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneProfile"}
    plane.post(PROFILES, {**kind, "metadata": {"name": name}, "spec": {"queueName": "l4"}})
    with operator(plane, tmp_path, READS, prelude=OFTEN) as running:
        spec = {"profile": name, "workloadPriorityClassName": "research"}
        place.submit(spec=spec)
        wait_until(
            "it has started, or its queue is missing",
            lambda: _started(place) or _lacks_queue(place),
        )
        if not _lacks_queue(place):
            # On a busy machine, the first list may fail, and an error stops no job.
            place.plane.delete(place.path("finetunejobs", "demo"))
            wait_until("nothing is left of it", lambda: not _started(place))
            place.submit(spec=spec)
        wait_until("its queue is missing", lambda: _lacks_queue(place))
        message = place.condition("Ready")["message"]
        assert message.startswith(
            f"queueName of FineTuneProfile {name}: there is no LocalQueue l4 in namespace "
            f"{place.name} (LocalQueues there: gpu). "
        )
        assert place.items("jobs") == []
        kueue.create(plane, "LocalQueue", "l4", place.name, spec={"clusterQueue": name})
        prepare = pod_of(place, STAGE, "prepare")
        (argument,) = prepare["spec"]["containers"][0]["args"]
        assert json.loads(argument)["cards"] == ["NVIDIA-L4"]
        kubelet.report(place, prepare, kubelet.completed("prepare"))

        wait_until("it is queued", lambda: place.reason() == "Queued")
        wait_until("it is the first", lambda: _place(place) == 1)
        urgent(place, "l4")
        wait_until("another is before it", lambda: _place(place) == 2)
        assert "It is number 2 of 2 in the queue." in place.condition("Ready")["message"]
        plane.delete(place.path("jobs", "urgent") + "?propagationPolicy=Background")
        _change(place, _quota(gpus=1, flavor="l4"), "-l4")
        pod = pod_of(place, STAGE, "train")
        assert pod["spec"]["nodeSelector"] == L4
        kubelet.report(place, pod, kubelet.running())
        wait_until("it trains", lambda: place.reason() == "Training")
        wait_until("it has no place any more", lambda: _place(place) is None)
        assert place.job()["status"]["profile"] == name
        assert_nothing_rejected(running)


def _lacks_queue(place: Namespace) -> bool:
    return place.reason() == "QueueNotFound"


def _started(place: Namespace) -> bool:
    return place.items("jobs") != []


def _place(place: Namespace) -> int | None:
    found: int | None = place.job()["status"].get("queuePosition")
    return found
