"""Client, plan executor and event recorder against a real API server, without a process."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes.apiserver import CONFIG, copied
from tests.fakes.pod_metrics import FakePodMetrics
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.rendered import SETS, children

from finetune_operator.actions import Apply, Create, Delete
from finetune_operator.controller.apply import AppliedVersions, PlanExecutor
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import (
    Conflict,
    ContentConflict,
    NameConflict,
    NotFound,
    Terminal,
)
from finetune_operator.kube.kinds import path_of
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects import naming
from finetune_operator.snapshot.live import LiveReader
from finetune_operator.snapshot.reader import JobReader
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import JOBS
from finetune_operator.types import Event, Plan, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWN = {naming.MANAGER: naming.MANAGED_BY, naming.JOB: "demo"}


@pytest.fixture
async def kube(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    client = await Kube.connect()
    yield client
    await client.close()


@pytest.fixture
async def job(kube: Kube, namespace: str) -> Any:
    return await kube.create(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "demo", "namespace": namespace},
            "spec": {
                "model": {"source": "hf://acme/base"},
                "dataset": {"source": "hf://acme/data", "format": "alpaca"},
            },
        }
    )


async def observe(kube: Kube, job: Any) -> Snapshot:
    # Events are read only of objects that have not run for some time.
    later = datetime.now(UTC) + timedelta(minutes=1)
    reader = JobReader(
        live=LiveReader(kube=kube, store=ObjectStore()),
        metrics=FakePodMetrics(),
        settings=CONFIG,
        clock=lambda: later,
    )
    snapshot = await reader.read((job["metadata"]["namespace"], "demo"), live=JOBS.kinds)
    assert snapshot is not None
    return snapshot


class Process:
    """Executes plans and remembers applied versions, like one operator process."""

    def __init__(self, kube: Kube) -> None:
        self._executor = PlanExecutor(kube=kube, recorder=Recorder(kube, instance="pod"))
        self._applied = AppliedVersions()

    async def execute(self, snapshot: Snapshot, plan: Plan) -> int:
        return await self._executor.execute(snapshot, plan, NOW, applied=self._applied)


def service(job: Any, port: int = 8000, *, owned: bool = True) -> dict[str, Any]:
    reference = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": "demo",
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "demo-serve",
            "namespace": job["metadata"]["namespace"],
            **({"labels": OWN, "ownerReferences": [reference]} if owned else {}),
        },
        "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": port}]},
    }


def plan(*actions: Apply | Create | Delete, **status: Any) -> Plan:
    return Plan(status=status, actions=actions)


async def present(kube: Kube, job: Any) -> Any:
    return await kube.get("Service", job["metadata"]["namespace"], "demo-serve")


async def test_an_apply_owns_its_fields_and_keeps_those_of_others(kube: Kube, job: Any) -> None:
    subject = Process(kube)
    initial = job.get("status", {})
    await subject.execute(await observe(kube, job), plan(Apply(object=service(job)), **initial))
    await kube.merge(service(job), {"metadata": {"annotations": {"mesh": "yes"}}})
    snapshot = await observe(kube, job)
    await subject.execute(snapshot, plan(Apply(object=service(job, 9000)), **initial))
    found = await present(kube, job)
    assert found["spec"]["ports"][0]["port"] == 9000
    stored = await kube.transport.call("GET", path_of(found))
    assert stored["metadata"]["annotations"] == {"mesh": "yes"}
    assert "annotations" not in found["metadata"], "the client removes them on arrival"
    ours = [e for e in found["metadata"]["managedFields"] if e["operation"] == "Apply"]
    assert [entry["manager"] for entry in ours] == ["finetune-operator"]
    assert "f:ports" in ours[0]["fieldsV1"]["f:spec"]


async def test_an_unchanged_object_is_not_applied_again_even_after_a_restart(
    kube: Kube, job: Any
) -> None:
    first = Process(kube)
    planned = plan(Apply(object=service(job)), **job.get("status", {}))
    assert await first.execute(await observe(kube, job), planned) == 1
    version = (await present(kube, job))["metadata"]["resourceVersion"]
    assert await first.execute(await observe(kube, job), planned) == 0
    assert await Process(kube).execute(await observe(kube, job), planned) == 0
    assert (await present(kube, job))["metadata"]["resourceVersion"] == version


async def test_an_apply_to_a_stale_version_is_a_conflict(kube: Kube, job: Any) -> None:
    await kube.create(service(job))
    snapshot = await observe(kube, job)
    await kube.merge(service(job), {"metadata": {"labels": {"x": "y"}}})
    with pytest.raises(Conflict):
        await Process(kube).execute(
            snapshot, plan(Apply(object=service(job, 9000)), **job.get("status", {}))
        )
    assert (await present(kube, job))["spec"]["ports"][0]["port"] == 8000


@pytest.mark.parametrize("action", [Apply, Create])
async def test_an_unowned_object_with_the_name_of_a_child_is_not_changed(
    kube: Kube, job: Any, action: Any
) -> None:
    foreign = await kube.create(service(job, 80, owned=False))
    with pytest.raises(NameConflict):
        await Process(kube).execute(
            await observe(kube, job), plan(action(object=service(job)), **job.get("status", {}))
        )
    assert await present(kube, job) == foreign


CREATED_ONCE = ("ConfigMap", "Job", "NetworkPolicy", "PersistentVolumeClaim")


@pytest.mark.parametrize("kind", CREATED_ONCE)
@pytest.mark.parametrize("name", SETS)
async def test_an_owned_object_that_exists_must_have_the_same_content(
    kube: Kube, job: Any, name: str, kind: str
) -> None:
    """The defaults that the API server adds to an object do not count as a difference."""
    initial, process = job.get("status", {}), Process(kube)
    for rendered in children(*SETS[name]).values():
        if rendered["kind"] != kind:
            continue
        metadata = {
            **rendered["metadata"],
            "namespace": job["metadata"]["namespace"],
            "ownerReferences": service(job)["metadata"]["ownerReferences"],
        }
        body = {**rendered, "metadata": metadata}
        assert await process.execute(await observe(kube, job), plan(Create(object=body), **initial))
        again = plan(Create(object=body), **initial)
        assert await process.execute(await observe(kube, job), again) == 0
        other = plan(Create(object=other_content(body)), **initial)
        with pytest.raises(ContentConflict, match=f"Delete {kind} {metadata['name']}"):
            await process.execute(await observe(kube, job), other)


def other_content(body: Any) -> Any:
    """Return a copy of an object with one changed value."""
    other = copied(body)
    match body["kind"]:
        case "ConfigMap":
            other["data"]["job.json"] += " "
        case "Job":
            other["spec"]["template"]["spec"]["containers"][0]["image"] += "-other"
        case "NetworkPolicy":
            other["spec"]["podSelector"]["matchLabels"]["finetune.dev/job"] = "other"
        case "PersistentVolumeClaim":
            other["spec"]["resources"]["requests"]["storage"] = "1Gi"
    return other


async def test_a_delete_of_a_stale_version_is_a_conflict(kube: Kube, job: Any) -> None:
    await kube.create(service(job))
    (snapshot,) = (await observe(kube, job)).services
    await kube.merge(service(job), {"metadata": {"labels": {"x": "y"}}})
    with pytest.raises(Conflict):
        await kube.delete(snapshot, propagation="Background")
    (snapshot,) = (await observe(kube, job)).services
    await kube.delete(snapshot, propagation="Background")
    assert await present(kube, job) is None
    await kube.delete(snapshot, propagation="Background")


async def test_a_status_write_to_a_stale_version_is_a_conflict(kube: Kube, job: Any) -> None:
    snapshot = await observe(kube, job)
    await kube.merge(job, {"metadata": {"labels": {"x": "y"}}})
    with pytest.raises(Conflict):
        await Process(kube).execute(
            snapshot, plan(Create(object=service(job)), observedGeneration=1)
        )
    assert await present(kube, job) is None


async def test_a_status_write_changes_only_the_status(kube: Kube, job: Any) -> None:
    written = await kube.replace_status(job, {"observedGeneration": 1, "endpoint": "http://x"})
    assert written["status"]["endpoint"] == "http://x"
    assert written["spec"] == job["spec"]
    assert written["metadata"]["generation"] == 1


async def test_a_status_write_to_a_deleted_job_is_not_found(kube: Kube, job: Any) -> None:
    await kube.delete(job, propagation="Background")
    with pytest.raises(NotFound):
        await kube.replace_status(job, {"observedGeneration": 1})


async def test_a_rejection_is_terminal_with_the_message_of_the_server(kube: Kube, job: Any) -> None:
    broken = service(job)
    broken["spec"]["ports"][0]["port"] = 70000
    with pytest.raises(Terminal, match="must be between 1 and 65535"):
        await kube.create(broken)


async def test_an_exceeded_quota_has_its_own_reason(
    kube: Kube, control_plane: ControlPlane, job: Any
) -> None:
    namespace = job["metadata"]["namespace"]
    control_plane.post(
        f"/api/v1/namespaces/{namespace}/resourcequotas",
        {"metadata": {"name": "none"}, "spec": {"hard": {"services": "0"}}},
    )
    # The admission plugin enforces the quota only after the quota has a status.
    control_plane.put(
        f"/api/v1/namespaces/{namespace}/resourcequotas/none/status",
        {
            "metadata": {"name": "none", "namespace": namespace},
            "spec": {"hard": {"services": "0"}},
            "status": {"hard": {"services": "0"}, "used": {"services": "0"}},
        },
    )
    place = Namespace(control_plane, namespace)
    place.wait_until_rejected("services", service(job), "exceeded quota: none")
    with pytest.raises(Terminal) as caught:
        await kube.create(service(job))
    assert caught.value.reason == "QuotaExceeded"
    assert "exceeded quota: none" in str(caught.value)


async def test_a_list_contains_all_pages(
    kube: Kube, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_operator.kube.client.PAGE", 2)
    namespace = job["metadata"]["namespace"]
    for number in range(5):
        await kube.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": f"c{number}",
                    "namespace": namespace,
                    "labels": OWN,
                },
            }
        )
    snapshot = await observe(kube, job)
    assert [each["metadata"]["name"] for each in snapshot.configmaps] == [
        "c0",
        "c1",
        "c2",
        "c3",
        "c4",
    ]
    assert {each["kind"] for each in snapshot.configmaps} == {"ConfigMap"}


async def test_a_repeated_event_is_counted_in_one_object(kube: Kube, job: Any) -> None:
    repeated = Event(type="Warning", reason="DatasetInvalid", message="row 7 has no output")
    namespace = job["metadata"]["namespace"]
    await Recorder(kube, instance="pod").record(job, [repeated], NOW)
    await Recorder(kube, instance="another").record(job, [repeated], NOW + timedelta(hours=1))
    (event,) = await kube.list("Event", namespace)
    assert (event["note"], event["type"]) == ("row 7 has no output", "Warning")
    assert event["series"]["count"] == 2
    assert event["reportingInstance"] == "pod"


async def test_warnings_about_pending_objects_are_in_the_snapshot(kube: Kube, job: Any) -> None:
    namespace = job["metadata"]["namespace"]
    claim = await kube.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "v",
                "namespace": namespace,
                "labels": OWN,
                "annotations": {"volume.kubernetes.io/selected-node": "a"},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
    )
    for kind, about in (("Warning", claim), ("Normal", claim), ("Warning", job)):
        warning = Event(type=kind, reason="ProvisioningFailed", message=f"no disk {kind}")  # type: ignore[arg-type]
        await Recorder(kube, instance="pod").record(about, [warning], NOW)
    (event,) = (await observe(kube, job)).events
    assert (event["involvedObject"]["uid"], event["type"]) == (claim["metadata"]["uid"], "Warning")
