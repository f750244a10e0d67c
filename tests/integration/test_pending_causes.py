"""Causes of pending jobs: each is reported within 30 s, and the job continues after a fix.

API server, controller manager and scheduler are real, and so are their errors. The nodes have no
kubelet. The tests write the status that a kubelet would report for a missing Secret or image;
tests/e2e covers the same causes with a real kubelet.

All jobs are submitted at the same time, each in its own namespace, and checked one by one.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.support.api_server import controlplane, operatorprocess
from tests.support.api_server.controlplane import ControlPlane, wait_until
from tests.support.api_server.namespace import CLAIM, POD, Namespace

ANSWER_SECONDS = 30.0
NODES = "/api/v1/nodes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
VOLUMES = "/api/v1/persistentvolumes"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A cause that keeps a job pending.

    reason: reason of Ready; words: expected parts of its message; before: creates the cause
    in the namespace; spec: additional fields of the job; fix: removes the cause; after: reason of
    Ready after the fix.
    """

    reason: str
    words: tuple[str, ...]
    fix: Callable[[Namespace], object]
    spec: Callable[[str], dict[str, Any]] = lambda namespace: {}
    before: Callable[[Namespace], object] = lambda place: None
    after: str = "Preparing"


def add_node(plane: ControlPlane, name: str, labels: dict[str, str], *, gpus: int = 0) -> None:
    """Create a ready node, like a kubelet; a node with GPUs gets the GKE label of an L4."""
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti"}
    if gpus:
        amounts["nvidia.com/gpu"] = str(gpus)
        labels = {**labels, "cloud.google.com/gke-accelerator": "nvidia-l4"}
    plane.post(NODES, {"metadata": {"name": name, "labels": labels}})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    plane.merge(f"{NODES}/{name}/status", {"status": status})


def add_class(plane: ControlPlane, name: str) -> None:
    """Create a storage class without a provisioner that binds volumes to their first consumer."""
    plane.post(
        CLASSES,
        {
            "metadata": {"name": name},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    )


def add_volume(plane: ControlPlane, class_: str, *, zone: str = "", claim: Any = None) -> None:
    """Create a volume of a class ("" for none); ``claim`` reserves the volume for one claim."""
    # Without the uid, the controller manager waits for its next resync.
    owner = claim and {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
    where = {"matchExpressions": [{"key": ZONE, "operator": "In", "values": [zone]}]}
    plane.post(
        VOLUMES,
        {
            "metadata": {"name": f"volume-{uuid.uuid4().hex[:8]}"},
            "spec": {
                "capacity": {"storage": "1Ti"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/nowhere"},
                **({"storageClassName": class_} if class_ else {}),
                **({"claimRef": owner} if owner else {}),
                **({"nodeAffinity": {"required": {"nodeSelectorTerms": [where]}}} if zone else {}),
            },
        },
    )


def add_storage(place: Namespace) -> None:
    """Create a storage class with the name of the namespace, and a volume of the class."""
    add_volume(place.plane, place.name)
    add_class(place.plane, place.name)


def add_volume_for_claim(place: Namespace) -> None:
    """Create a volume for the claim; without claimRef, a claim of another test could bind it."""
    (claim,) = place.items("persistentvolumeclaims")
    add_volume(place.plane, "", claim=claim)


def in_class(namespace: str) -> dict[str, Any]:
    return {"storage": {"storageClassName": namespace}}


PROBES = {"pods": POD, "persistentvolumeclaims": CLAIM}


def quota(place: Namespace, **hard: str) -> None:
    """Create storage and a quota in the namespace; wait until the quota is enforced."""
    add_storage(place)
    path = f"/api/v1/namespaces/{place.name}/resourcequotas"
    place.plane.apply(
        f"{path}/budget",
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "budget"},
            "spec": {"hard": hard},
        },
    )
    (kind,) = hard
    place.wait_until_rejected(kind, PROBES[kind], "exceeded quota: budget")


def lift_quota(place: Namespace) -> None:
    place.plane.delete(f"/api/v1/namespaces/{place.name}/resourcequotas/budget")


def forbid(place: Namespace, group: str, resource: str) -> None:
    """Create storage, and a policy that denies creates of a resource; wait until it is enforced."""
    add_storage(place)
    rule = {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": [resource],
    }
    place.plane.post(
        POLICIES,
        {
            "metadata": {"name": place.name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [
                    {"expression": "false", "message": "images must come from trusted.example"}
                ],
            },
        },
    )
    own = {"matchLabels": {"kubernetes.io/metadata.name": place.name}}
    place.plane.post(
        BINDINGS,
        {
            "metadata": {"name": place.name},
            "spec": {
                "policyName": place.name,
                "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": own},
            },
        },
    )
    place.wait_until_rejected(resource, PROBES[resource], "trusted.example")


def allow(place: Namespace) -> None:
    place.plane.delete(f"{BINDINGS}/{place.name}")


def label_node(place: Namespace) -> None:
    place.plane.merge(f"{NODES}/a", {"metadata": {"labels": {"pool": place.name}}})


def create_secret(place: Namespace) -> None:
    place.plane.post(
        place.path("secrets"), {"metadata": {"name": "hf-token"}, "stringData": {"token": "hf_x"}}
    )


def add_storage_in_zone_b(place: Namespace) -> None:
    """Create a storage class and a volume in zone b, which has no node with a GPU."""
    add_class(place.plane, place.name)
    add_volume(place.plane, place.name, zone="b")


def add_gpu_in_zone_b(place: Namespace) -> None:
    add_node(place.plane, f"gpu-{place.name}", {ZONE: "b"}, gpus=1)


CAUSES = {
    "label": Cause(
        reason="Unschedulable",
        words=(
            "No available node has the label pool=",
            "spec.placement.nodeSelector",
            "didn't match Pod's node affinity",
        ),
        before=add_storage,
        spec=lambda ns: {**in_class(ns), "placement": {"nodeSelector": {"pool": ns}}},
        fix=label_node,
        after="Training",
    ),
    "secret": Cause(
        reason="SecretMissing",
        words=('secret "hf-token" not found', "tokenSecretRef"),
        before=add_storage,
        spec=lambda ns: {
            **in_class(ns),
            "model": {"source": "hf://acme/base", "tokenSecretRef": {"name": "hf-token"}},
            "runPolicy": {"pendingDeadlineSeconds": 30},
        },
        fix=create_secret,
    ),
    "class": Cause(
        reason="VolumePending",
        words=("StorageClass", "does not exist", "not found"),
        spec=in_class,
        fix=add_storage,
    ),
    "no-default-class": Cause(
        reason="VolumePending",
        words=("unbound immediate PersistentVolumeClaims", "spec.storage.storageClassName"),
        fix=add_volume_for_claim,
    ),
    "quota-of-pods": Cause(
        reason="QuotaExceeded",
        words=("exceeded quota: budget", "pods=1"),
        before=lambda place: quota(place, pods="0"),
        spec=in_class,
        fix=lift_quota,
    ),
    "quota-of-volumes": Cause(
        reason="QuotaExceeded",
        words=("exceeded quota: budget", "persistentvolumeclaims=1"),
        before=lambda place: quota(place, persistentvolumeclaims="0"),
        spec=in_class,
        fix=lift_quota,
    ),
    "policy-on-pods": Cause(
        reason="FailedCreate",
        words=("ValidatingAdmissionPolicy", "images must come from trusted.example"),
        before=lambda place: forbid(place, "", "pods"),
        spec=in_class,
        fix=allow,
    ),
    "policy-on-volumes": Cause(
        reason="FailedCreate",
        words=("ValidatingAdmissionPolicy", "images must come from trusted.example"),
        before=lambda place: forbid(place, "", "persistentvolumeclaims"),
        spec=in_class,
        fix=allow,
    ),
    "zone": Cause(
        reason="Unschedulable",
        words=("PersistentVolume's node affinity", "spec.placement.zones"),
        before=add_storage_in_zone_b,
        spec=in_class,
        fix=add_gpu_in_zone_b,
        after="Training",
    ),
}


def report(place: Namespace, cause: Cause) -> None:
    """Report on the pods that have a node, as their kubelet would."""
    for pod in place.items("pods"):
        if not pod["spec"].get("nodeName") or pod["status"]["phase"] != "Pending":
            continue
        if cause.after == "Training" and kubelet.stage_of(pod) == "prepare":
            kubelet.report(place, pod, kubelet.completed("prepare"))
        else:
            kubelet.start(place, pod)


def seconds_to_the_answer(place: Namespace, reason: str) -> float:
    """Return the time from the newest object that cannot go on to the event that says why."""
    made = [place.job(), *place.items("jobs")]
    since = max(each["metadata"]["creationTimestamp"] for each in made)
    # The message, and with it the event, can change with the nodes of the cluster.
    reported = min(
        each["eventTime"]
        for each in place.items("events")
        if (each["regarding"]["kind"], each["reason"]) == ("FineTuneJob", reason)
    )
    return (datetime.fromisoformat(reported) - datetime.fromisoformat(since)).total_seconds()


@pytest.fixture(scope="module")
def places(
    controller_manager: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Namespace]]:
    """A namespace with a job for each cause; of two nodes, the one in zone a has GPUs."""
    plane = controller_manager
    add_node(plane, "a", {ZONE: "a"}, gpus=len(CAUSES))
    add_node(plane, "b", {ZONE: "b"})
    with (
        controlplane.scheduler(plane),
        operatorprocess.operator(plane, tmp_path_factory.mktemp("operator")),
    ):
        found = {name: Namespace(plane, plane.namespace(f"pending-{name}")) for name in CAUSES}
        for name, place in found.items():
            CAUSES[name].before(place)
        for name, place in found.items():
            place.submit(spec=CAUSES[name].spec(place.name))
        yield found
        for place in found.values():
            plane.delete(place.path("finetunejobs"))


def wait_for(places: dict[str, Namespace], name: str, reason: str) -> None:
    """Wait until a job's Ready has the reason, and act as the kubelet of all namespaces."""

    def has_reason() -> bool:
        for each, place in places.items():
            report(place, CAUSES[each])
        return places[name].reason() == reason

    wait_until(f"{name}: Ready has reason {reason}", has_reason)


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_reported_within_30_seconds(places: dict[str, Namespace], name: str) -> None:
    place, cause = places[name], CAUSES[name]
    wait_for(places, name, cause.reason)
    message = place.condition("Ready")["message"]
    for word in cause.words:
        assert word in message
    assert seconds_to_the_answer(place, cause.reason) < ANSWER_SECONDS


def test_a_job_is_stalled_if_the_cause_outlasts_the_deadline(places: dict[str, Namespace]) -> None:
    place = places["secret"]
    wait_for(places, "secret", "SecretMissing")
    wait_until("the job is stalled", lambda: bool(place.condition("Stalled")))
    since = datetime.fromisoformat(place.items("pods")[0]["metadata"]["creationTimestamp"])
    stalled = datetime.fromisoformat(place.condition("Stalled")["lastTransitionTime"])
    assert 30 <= (stalled - since).total_seconds() < 60
    assert place.condition("Stalled")["reason"] == place.reason() == "SecretMissing"
    assert place.condition("Reconciling") == {}


@pytest.fixture(scope="module")
def fixed(places: dict[str, Namespace]) -> dict[str, Namespace]:
    """The same jobs after all causes were reported and fixed."""
    for name, cause in CAUSES.items():
        wait_for(places, name, cause.reason)
    for name, cause in CAUSES.items():
        cause.fix(places[name])
    return places


@pytest.mark.parametrize("name", CAUSES)
def test_after_the_fix_the_job_continues_by_itself(fixed: dict[str, Namespace], name: str) -> None:
    place = fixed[name]
    wait_for(fixed, name, CAUSES[name].after)

    def runs() -> bool:
        report(place, CAUSES[name])
        return any(pod["status"]["phase"] == "Running" for pod in place.items("pods"))

    wait_until(f"a pod of {name} runs", runs)
    assert place.condition("Stalled") == {}
