"""The lifecycle of a job with the real controller manager and a fake kubelet."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from tests.fakes import kubelet
from tests.support.api_server.controlplane import wait_until
from tests.support.api_server.namespace import CLAIM, Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

pytestmark = pytest.mark.usefixtures("controller_manager")

StageStatus = Callable[[str], dict[str, Any]]
"""Takes a stage, returns the status of its pod."""


def all_complete(stage: str) -> dict[str, Any]:
    if stage == "serve":
        return kubelet.serving()
    return kubelet.completed(stage, gpu_seconds=12.5 if stage == "train" else 0)


def uids_of_pods(place: Namespace) -> set[str]:
    return {pod["metadata"]["uid"] for pod in place.items("pods")}


def run_stages(
    place: Namespace,
    reason: str,
    stage_status: StageStatus = all_complete,
    *,
    known: Iterable[str] = (),
) -> list[str]:
    """Report on every pod until Ready has the reason; return the stages of the pods.

    known: the uids of pods on which this function does not report.
    """
    reported, stages = set(known), list[str]()

    def reached() -> bool:
        for pod in place.items("pods"):
            if pod["metadata"]["uid"] not in reported:
                reported.add(pod["metadata"]["uid"])
                stages.append(kubelet.stage_of(pod))
                kubelet.report(place, pod, stage_status(stages[-1]))
        return place.reason() == reason

    wait_until(f"Ready has reason {reason}", reached)
    return stages


def test_a_job_completes_all_stages_and_serves(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    assert run_stages(place, "Serving") == ["prepare", "train", "merge", "serve"]
    operator.settled()
    job = place.job()
    assert job["status"]["endpoint"] == f"http://demo-serve.{place.name}.svc:8000/v1"
    assert operator.failures() == []
    for stage in ("prepare", "train", "merge"):
        assert operator.metric("finetune_stage_duration_seconds_count", stage=stage) == 1
    assert operator.metric("finetune_gpu_seconds_total") == 12
    assert operator.metric("finetune_jobs", reason="Serving") == 1

    writes = operator.writes()
    reconciles = operator.metric("controller_runtime_reconcile_total")
    labels = {"metadata": {"labels": {"a": "b"}}}
    labelled = place.plane.merge(place.path("finetunejobs", "demo"), labels)
    wait_until(
        "the job is reconciled again",
        lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
    )
    operator.settled()
    assert operator.writes() == writes
    version = place.job()["metadata"]["resourceVersion"]
    assert version == labelled["metadata"]["resourceVersion"]


def test_deleting_a_job_deletes_its_children(operator: OperatorProcess, place: Namespace) -> None:
    place.submit()
    run_stages(place, "Serving")
    place.plane.delete(place.path("finetunejobs", "demo"))
    kinds = ("pods", "jobs", "deployments", "services", "networkpolicies")
    wait_until("all children are deleted", lambda: not any(place.items(kind) for kind in kinds))
    operator.settled()
    assert not any(place.items(kind) for kind in kinds)
    assert operator.metric("finetune_jobs") == 0


def test_a_recreated_job_waits_for_the_deletion_of_earlier_children(
    operator: OperatorProcess, place: Namespace
) -> None:
    """After ``kubectl replace --force``, the same manifest is a new job, which trains again."""
    first = place.submit()
    run_stages(place, "Serving")
    place.plane.delete(place.path("finetunejobs", "demo"))
    second = place.submit()
    assert run_stages(place, "Serving")[-3:] == ["train", "merge", "serve"]
    operator.settled()
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    for kind in ("jobs", "deployments", "services", "configmaps", "persistentvolumeclaims"):
        for each in place.items(kind):
            if each["metadata"]["name"] != "kube-root-ca.crt":
                (owner,) = each["metadata"]["ownerReferences"]
                assert owner["uid"] == second["metadata"]["uid"], each["metadata"]["name"]
    stages = place.job()["status"]["revisions"][0]["stages"]
    assert [each["attempt"] for each in stages] == [1, 1, 1, 1]
    assert operator.failures() == []


def test_deletion_policy_retain_keeps_the_volume(
    operator: OperatorProcess, place: Namespace
) -> None:
    def claim() -> dict[str, Any]:
        (found,) = place.items("persistentvolumeclaims")
        return found

    place.submit()
    run_stages(place, "Serving")
    path = place.path("finetunejobs", "demo")
    place.plane.merge(path, {"spec": {"storage": {"deletionPolicy": "Retain"}}})
    wait_until("the volume has no owner", lambda: not claim()["metadata"].get("ownerReferences"))
    operator.settled()
    kept = claim()
    place.plane.delete(path)
    kinds = ("pods", "jobs", "deployments", "services", "networkpolicies")
    wait_until(
        "all other children are deleted", lambda: not any(place.items(kind) for kind in kinds)
    )
    assert (claim()["metadata"], claim()["spec"]) == (kept["metadata"], kept["spec"])


def test_an_orphaned_train_pod_prevents_a_second_trainer(
    operator: OperatorProcess, place: Namespace
) -> None:
    def trainer() -> dict[str, Any]:
        (found,) = (pod for pod in place.items("pods") if kubelet.stage_of(pod) == "train")
        return found

    def stage_status(stage: str) -> dict[str, Any]:
        return all_complete(stage) if stage == "prepare" else kubelet.running()

    place.submit()
    run_stages(place, "Training", stage_status)
    wait_until("a train pod exists", lambda: "train" in map(kubelet.stage_of, place.items("pods")))
    kubelet.report(place, trainer(), kubelet.running())
    operator.settled()
    (job,) = (each for each in place.items("jobs") if kubelet.stage_of(each) == "train")
    path = place.path("jobs", job["metadata"]["name"])
    place.plane.delete(f"{path}?propagationPolicy=Orphan")
    wait_until("the operator waits for the pod", lambda: place.reason() == "WaitingForPod")
    assert trainer()["metadata"]["name"] in place.condition("Ready")["message"]
    wait_until("the pod has no owner", lambda: not trainer()["metadata"].get("ownerReferences"))
    operator.settled()
    assert trainer()["status"]["phase"] == "Running"
    assert not [each for each in place.items("jobs") if kubelet.stage_of(each) == "train"]

    kubelet.report(place, trainer(), kubelet.completed("train"))
    wait_until("a second attempt trains", lambda: place.reason() == "Training")

    def attempts() -> list[str]:
        jobs = (each for each in place.items("jobs") if kubelet.stage_of(each) == "train")
        return [each["metadata"]["labels"]["finetune.dev/attempt"] for each in jobs]

    # The status has the attempt before its Job exists.
    wait_until("the second attempt has a Job", lambda: bool(attempts()))
    assert attempts() == ["2"]


def test_a_failed_stage_is_reported_with_its_cause(
    operator: OperatorProcess, place: Namespace
) -> None:
    def stage_status(stage: str) -> dict[str, Any]:
        return kubelet.failed(stage, code=65, reason="DatasetInvalid", message="row 7 is empty")

    place.submit()
    assert run_stages(place, "DatasetInvalid", stage_status) == ["prepare"]
    operator.settled()
    assert operator.failures() == []
    ready = next(c for c in place.job()["status"]["conditions"] if c["type"] == "Ready")
    assert "row 7 is empty" in ready["message"]


def test_drift_is_corrected_and_reported_in_one_event(
    operator: OperatorProcess, place: Namespace
) -> None:
    def reported() -> dict[str, int]:
        return {
            event["note"]: event.get("series", {}).get("count", 1)
            for event in place.items("events")
            if event["reason"] == "DriftCorrected"
        }

    def reconcile_again() -> None:
        reconciles = operator.metric("controller_runtime_reconcile_total")
        labels = {"metadata": {"labels": {"reconciles": str(reconciles)}}}
        place.plane.merge(place.path("finetunejobs", "demo"), labels)
        wait_until(
            "the job is reconciled again",
            lambda: operator.metric("controller_runtime_reconcile_total") > reconciles,
        )
        operator.settled()

    place.submit()
    run_stages(place, "Serving")
    reconcile_again()
    (deployment,), (service,) = place.items("deployments"), place.items("services")
    by_hand = "?fieldManager=kubectl-edit"
    name = deployment["metadata"]["name"]
    path = place.path("deployments", name)
    place.plane.merge(path, {"metadata": {"annotations": {"note": "no drift"}}})
    place.plane.merge(path + by_hand, {"spec": {"progressDeadlineSeconds": 7}})
    wait_until(
        "the Deployment is restored",
        lambda: place.items("deployments")[0]["spec"] == deployment["spec"],
    )
    # Services are not watched: the next full reconcile corrects a change.
    redirected = {
        "selector": {"finetune.dev/build": "another", "app": "another"},
        # Fields without a value in the object that the operator creates.
        "publishNotReadyAddresses": True,
        "externalIPs": ["192.0.2.1"],
    }
    place.plane.merge(place.path("services", "demo-serve") + by_hand, {"spec": redirected})
    reconcile_again()
    wait_until(
        "the Service is restored", lambda: place.items("services")[0]["spec"] == service["spec"]
    )
    place.plane.delete(path)
    expected = {
        f"Reverted changes made to Deployment {name} by field manager kubectl-edit.",
        "Reverted changes made to Service demo-serve by field manager kubectl-edit.",
        f"Re-created Deployment {name}, which was deleted externally.",
    }
    # Until the operator knows of the deletion, the reason of Ready is still Serving.
    wait_until("all events are recorded", lambda: set(reported()) == expected)
    run_stages(place, "Serving")
    for _ in range(3):
        reconcile_again()
    assert reported() == dict.fromkeys(expected, 1)


def without_controller(each: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """Return a change after which an object has no controller, or another one."""
    (owner,) = each["metadata"]["ownerReferences"]
    return {"metadata": {"ownerReferences": [{**owner, "controller": False}, *others]}}


@pytest.mark.parametrize("controlled", [True, False], ids=["another controller", "no controller"])
def test_an_object_without_its_controller_is_restored(
    operator: OperatorProcess, place: Namespace, *, controlled: bool
) -> None:
    """Also without the admission policy, which rejects these changes."""
    others: list[dict[str, Any]] = []
    if controlled:
        path = place.path("configmaps")
        other = place.plane.post(path, {"metadata": {"name": "own", "namespace": place.name}})
        owner = {"name": "own", "uid": other["metadata"]["uid"], "controller": True}
        others = [{"apiVersion": "v1", "kind": "ConfigMap", **owner}]
    place.submit()
    run_stages(place, "Serving")
    operator.settled()
    evil: dict[str, dict[str, Any]] = {
        "services": {
            "selector": {"app": "evil"},
            "ports": [
                {"name": "http", "port": 8000, "targetPort": "http"},
                {"name": "other", "port": 9000},
            ],
        },
        "networkpolicies": {"ingress": [{}], "egress": [{}]},
        "deployments": {
            "paused": True,
            "template": {
                "metadata": {"labels": {"azure.workload.identity/use": "true", "app": "payments"}},
                "spec": {"hostNetwork": True},
            },
        },
    }
    before = {(kind, each["metadata"]["name"]): each for kind in evil for each in place.items(kind)}
    for (kind, name), each in before.items():
        place.plane.merge(
            place.path(kind, name), {**without_controller(each, *others), "spec": evil[kind]}
        )
    place.plane.merge(place.path("finetunejobs", "demo"), {"metadata": {"labels": {"again": ""}}})

    def restored(kind: str, name: str) -> bool:
        each, expected = place.plane.get(place.path(kind, name)), before[kind, name]
        return bool(
            each["spec"] == expected["spec"]
            and each["metadata"]["ownerReferences"] == expected["metadata"]["ownerReferences"]
        )

    for key in before:
        wait_until(f"{key} is restored", lambda key=key: restored(*key))  # type: ignore[misc]
    run_stages(place, "Serving", known=uids_of_pods(place))


def test_a_stage_whose_job_has_no_controller_is_suspended(
    operator: OperatorProcess, place: Namespace
) -> None:
    place.submit()
    wait_until("the Job exists", lambda: place.items("jobs") != [])
    place.wait_until_running()
    (running,) = place.items("jobs")
    name = running["metadata"]["name"]
    place.plane.merge(place.path("jobs", name), without_controller(running))
    place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"suspend": True}})
    wait_until(
        "the Job is deleted",
        lambda: name not in {each["metadata"]["name"] for each in place.items("jobs")},
    )
    wait_until("the job is suspended", lambda: place.reason() == "SuspendedByUser")
    operator.settled()


def test_an_exceeded_quota_is_reported_until_the_quota_is_deleted(
    operator: OperatorProcess, place: Namespace
) -> None:
    quotas = f"/api/v1/namespaces/{place.name}/resourcequotas"
    place.plane.post(
        quotas,
        {"metadata": {"name": "none"}, "spec": {"hard": {"persistentvolumeclaims": "0"}}},
    )
    place.wait_until_rejected("persistentvolumeclaims", CLAIM, "exceeded quota: none")
    place.submit()
    wait_until("the exceeded quota is reported", lambda: place.reason() == "QuotaExceeded")
    place.plane.delete(f"{quotas}/none")
    place.wait_until_preparing()
