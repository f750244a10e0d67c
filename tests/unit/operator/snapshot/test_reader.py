"""Requests of one read, and the metrics in its snapshot."""

from typing import Any

from tests.fakes.kube_client import MemoryKube, child, job
from tests.fakes.pod_metrics import FakePodMetrics

from finetune_operator.snapshot.reader import may_be_stale, pending_objects, read
from finetune_operator.types import Object, Progress, Snapshot, Verification

KEY = ("a", "demo")


def pod(name: str, stage: str, phase: str = "Running", ip: str = "10.0.0.1") -> dict[str, Any]:
    each: dict[str, Any] = child("Pod", name, status={"phase": phase, "podIP": ip})
    each["metadata"]["labels"]["finetune.dev/stage"] = stage
    return each


async def test_a_deleted_job_has_no_snapshot() -> None:
    assert await read(MemoryKube(), KEY, FakePodMetrics()) is None


async def test_a_snapshot_contains_all_objects_with_the_label() -> None:
    kube = MemoryKube(
        job(), child("Pod", "p", owner=None), child("Job", "j"), child("ConfigMap", "c")
    )
    snapshot = await read(kube, KEY, FakePodMetrics())
    assert snapshot is not None
    children = (*snapshot.pods, *snapshot.jobs, *snapshot.configmaps)
    assert [each["metadata"]["name"] for each in children] == ["p", "j", "c"]


async def test_a_full_read_costs_one_get_and_eight_lists() -> None:
    kube = MemoryKube(
        job(),
        pod("served", "serve"),
        child("PersistentVolumeClaim", "v", status={"phase": "Bound"}),
        child("Job", "j", status={"conditions": [{"type": "Complete", "status": "True"}]}),
    )
    await read(kube, KEY, FakePodMetrics())
    assert kube.reads == 9


async def test_a_snapshot_contains_the_last_metrics_of_the_pods() -> None:
    progress = Progress(pod="uid-t", global_step=7)
    verification = Verification(pod="v", build="b", outcome="Verified")
    metrics = FakePodMetrics(verification, progress)
    trainer, run = pod("t", "train"), child("Job", "run")
    run["metadata"] |= {"uid": "run"}
    run["metadata"]["labels"]["finetune.dev/stage"] = "train"
    trainer["metadata"] |= {"uid": "uid-t"}
    trainer["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "run", "controller": True}]
    snapshot = await read(MemoryKube(job(), trainer, run), KEY, metrics)
    assert snapshot is not None
    assert (snapshot.progress, snapshot.verification) == (progress, verification)
    assert [target.uid for target in metrics.targets[KEY]] == ["uid-t"]


def test_a_snapshot_whose_pod_has_ended_and_its_job_has_not_may_be_stale() -> None:
    ended = pod("t", "train", phase="Succeeded")
    run = child("Job", "run")
    run["metadata"]["uid"] = "run"
    ended["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "run", "controller": True}]
    assert may_be_stale(Snapshot(job=job(), jobs=(run,), pods=(ended,)))
    assert not may_be_stale(Snapshot(job=job(), jobs=(run,), pods=(pod("t", "train"),)))


def test_events_are_read_for_objects_that_do_not_run() -> None:
    waiting = pod("pending", "train", phase="Pending")
    unbound = child("PersistentVolumeClaim", "unbound", status={"phase": "Pending"})
    stuck = child("Job", "stuck", status={"active": 0})
    pending = pending_objects(
        volumes=[unbound, child("PersistentVolumeClaim", "bound", status={"phase": "Bound"})],
        jobs=[
            stuck,
            child("Job", "ready", status={"ready": 1}),
            child("Job", "over", status={"conditions": [{"type": "Failed", "status": "True"}]}),
        ],
        pods=[waiting, pod("runs", "prepare")],
    )
    assert {each["metadata"]["name"] for each in pending} == {"pending", "unbound", "stuck"}


async def test_all_events_of_a_suspended_job_are_read() -> None:
    """Kueue reports with a Normal event that it finished the Workload of a Job."""
    selectors: list[str] = []

    class Recording(MemoryKube):
        async def list(self, kind: str, namespace: str = "", **how: Any) -> tuple[Object, ...]:
            selectors.append(how.get("fields", ""))
            return await super().list(kind, namespace, **how)

    jobs = {name: child("Job", name, spec={"suspend": name == "held"}) for name in ("held", "free")}
    for name, each in jobs.items():
        each["metadata"]["uid"] = name
    await read(Recording(job(), *jobs.values()), KEY, FakePodMetrics())
    assert {"involvedObject.uid=held", "type=Warning,involvedObject.uid=free"} == {*selectors} - {
        ""
    }


def test_events_are_read_for_at_most_six_objects() -> None:
    pods = [pod(f"p{number}", "train", phase="Pending") for number in range(50)]
    assert len(pending_objects(volumes=[], jobs=[], pods=pods)) == 6
