"""Requests and scrapes of one read."""

from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube, child, job

from finetune_operator.snapshot.reader import may_be_stale, pending_objects, read, scrape_target
from finetune_operator.types import Object, Progress

KEY = ("a", "demo")


def pod(name: str, stage: str, phase: str = "Running", ip: str = "10.0.0.1") -> dict[str, Any]:
    each: dict[str, Any] = child("Pod", name, status={"phase": phase, "podIP": ip})
    each["metadata"]["labels"]["finetune.dev/stage"] = stage
    return each


async def no_scrape(address: str, port: int) -> str | None:
    raise AssertionError(f"{address} was scraped")


async def test_a_deleted_job_has_no_snapshot() -> None:
    assert await read(MemoryKube(), KEY, no_scrape) is None


async def test_a_snapshot_contains_all_objects_with_the_label() -> None:
    kube = MemoryKube(
        job(), child("Pod", "p", owner=None), child("Job", "j"), child("ConfigMap", "c")
    )
    snapshot = await read(kube, KEY, no_scrape)
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
    await read(kube, KEY, no_scrape)
    assert kube.reads == 9


async def test_the_running_train_pod_is_scraped() -> None:
    async def scrape(address: str, port: int) -> str | None:
        return f"finetune_global_step {address.rpartition('.')[2]}" if port == 9400 else None

    kube = MemoryKube(job(), pod("s", "prepare", ip="10.0.0.3"), pod("t", "train", ip="10.0.0.7"))
    snapshot = await read(kube, KEY, scrape)
    assert snapshot is not None
    assert snapshot.progress == Progress(global_step=7)


@pytest.mark.parametrize(("uid", "expected"), [("own", Progress(global_step=7)), ("other", None)])
async def test_metrics_of_another_pod_with_the_same_address_are_discarded(
    uid: str, expected: Progress | None
) -> None:
    """Addresses are reused. The snapshot then may be stale, as after a failed scrape."""

    async def scrape(address: str, port: int) -> str | None:
        return f'finetune_pod_info{{uid="{uid}"}} 1\nfinetune_global_step 7\n'

    trainer = pod("t", "train")
    trainer["metadata"]["uid"] = "own"
    snapshot = await read(MemoryKube(job(), trainer), KEY, scrape)
    assert snapshot is not None
    assert snapshot.progress == expected
    assert may_be_stale(snapshot) is (expected is None)


@pytest.mark.parametrize(
    "unscraped",
    [
        pod("p", "train", phase="Pending"),
        pod("p", "train", phase="Succeeded"),
        pod("p", "train", ip=""),
        pod("p", "serve"),
    ],
    ids=["pending", "terminated", "without an address", "serving"],
)
def test_other_pods_are_not_scraped(unscraped: dict[str, Any]) -> None:
    assert scrape_target([unscraped]) is None


def test_a_terminating_pod_is_not_scraped() -> None:
    terminating = pod("p", "train")
    terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert scrape_target([terminating]) is None


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
    await read(Recording(job(), *jobs.values()), KEY, no_scrape)
    assert {"involvedObject.uid=held", "type=Warning,involvedObject.uid=free"} == {*selectors} - {
        ""
    }


def test_events_are_read_for_at_most_six_objects() -> None:
    pods = [pod(f"p{number}", "train", phase="Pending") for number in range(50)]
    assert len(pending_objects(volumes=[], jobs=[], pods=pods)) == 6
