"""The recorder of usage: what it writes, when, and what it does if a write fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube, child, job

from finetune_operator.controller.usage import UsageRecorder
from finetune_operator.kube.errors import OperatorError, Terminal, Transient
from finetune_operator.snapshot.gpu_usage import GpuUsage
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.snapshot.watches import ENDPOINTS
from finetune_operator.usage import records
from finetune_operator.usage.months import Month
from finetune_operator.usage.values import ReservationRequest, Usage

NOVEMBER = Month(2026, 11)
START = NOVEMBER.start + 86_400
KEY = "train/uid-of-demo/rev"
GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
NAME = "a-2026-11"


def stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def request(key: str = KEY, cap: int = 1000) -> ReservationRequest:
    return ReservationRequest(key=key, namespace="a", job="demo", cap=cap, price=None)


def training(outcome: str) -> dict[str, Any]:
    stages = [{"stage": "train", "attempt": 1, "outcome": outcome}]
    return {"revision": "rev", "revisions": [{"revision": "rev", "stages": stages}]}


def pod(
    name: str = "pod",
    *,
    stage: str = "train",
    end: int | None = None,
    start: int = START,
    version: int = 5,
) -> Any:
    body = child("Pod", name)
    body["metadata"] |= {"uid": f"uid-of-{name}", "resourceVersion": str(version)}
    body["metadata"]["labels"] |= {"finetune.dev/stage": stage, "finetune.dev/revision": "rev"}
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(start)}
    body["spec"] = {"nodeName": "node", "containers": [{"name": "trainer", **GPU}]}
    body["status"] = {"phase": "Running", "conditions": [scheduled]}
    if end is not None:
        state = {"terminated": {"finishedAt": stamp(end), "exitCode": 0}}
        body["status"] |= {
            "phase": "Succeeded",
            "containerStatuses": [{"name": "trainer", "state": state}],
        }
    return body


class Scene:
    """A recorder, its store and the API server; the clock is set by hand."""

    def __init__(self, kube: MemoryKube | None = None) -> None:
        self.kube = kube or MemoryKube()
        self.now = START
        self.store, self.endpoints = ObjectStore(), ObjectStore(ENDPOINTS)
        self.woken: list[tuple[str, str]] = []
        pods = GpuUsage(
            kube=self.kube,
            store=self.store,
            endpoints=self.endpoints,
            resource="nvidia.com/gpu",
            clock=lambda: self.now,
        )
        self.recorder = UsageRecorder(pods=pods, wake=self.woken.append)

    def put_job(self, **status: Any) -> None:
        body = job(**status)
        version = str(100 + len(self.kube.calls) + self.store.version("FineTuneJob", ("a", "demo")))
        body["metadata"]["resourceVersion"] = version
        self.store.put(body)

    @property
    def status(self) -> Any:
        return self.kube.objects["FineTuneUsage", "", NAME]["status"]

    def writes(self) -> int:
        return len(self.kube.calls)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[UsageRecorder]:
        """Run the recorder, whose settlements are called by hand."""
        await self.recorder._load()
        yield self.recorder


def charged(status: Any) -> int:
    return sum(row["gpuSeconds"] for row in status.get("days", ()))


async def test_a_reservation_is_written_before_it_is_known() -> None:
    scene = Scene()
    async with scene.leading() as recorder:
        assert not recorder.of("a").reservations
        assert await recorder.reserve(request())
        assert recorder.of("a").reservations[KEY].remaining == 1000
        assert scene.status["marks"][0]["cap"] == 1000
        assert scene.kube.calls == [
            ("create", "FineTuneUsage", NAME),
            ("status", "FineTuneUsage", NAME),
        ]
        assert not await recorder.reserve(request()), "it is there already"
        assert await recorder.reserve(request(cap=2000))
        assert recorder.of("a").reservations[KEY].cap == 2000


class SlowKube(MemoryKube):
    """Lets other tasks run while it writes a status."""

    async def replace_status(self, found: Any, status: Any) -> Any:
        await asyncio.sleep(0)
        return await super().replace_status(found, status)


async def test_reservations_that_wait_together_share_one_write() -> None:
    scene = Scene(SlowKube())
    async with scene.leading() as recorder:
        keys = [f"train/uid-{number}/rev" for number in range(20)]
        results = await asyncio.gather(*(recorder.reserve(request(key)) for key in keys))
        assert all(results)
        assert recorder.of("a").reservations.keys() == set(keys)
        assert [verb for verb, *_ in scene.kube.calls].count("status") == 2, (
            "the first does not wait"
        )


async def test_the_gate_sees_the_reservations_that_it_has_just_admitted() -> None:
    def gate(wish: ReservationRequest, usage: Usage) -> bool:
        known = usage.namespaces["a"].reservations.values()
        return sum(each.remaining for each in known) + (wish.cap or 0) <= 2000

    scene = Scene()
    scene.recorder.gate = gate
    async with scene.leading() as recorder:
        wishes = [recorder.reserve(request(f"train/uid-{number}/rev")) for number in range(3)]
        assert await asyncio.gather(*wishes) == [True, True, False]
        assert len(recorder.of("a").reservations) == 2


async def test_one_write_per_settlement_while_gpus_are_used_and_none_otherwise() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        for minute in (1, 2, 3):
            before, scene.now = scene.writes(), START + 60 * minute
            await recorder.settle()
            assert scene.writes() == before + 1
            assert charged(scene.status) == 60 * minute
        scene.store.put(pod(end=START + 200, version=6))
        scene.put_job(**training("Completed"))
        scene.now = START + 600
        await recorder.settle()
        assert charged(scene.status) == 200
        assert not recorder.of("a").reservations
        assert recorder.of("a").trained[KEY] == 200
        assert scene.woken == [("a", "demo")]
        before, scene.now = scene.writes(), START + 900
        await recorder.settle()
        assert scene.writes() == before


@pytest.mark.parametrize("reported", [True, False])
async def test_the_end_of_a_removed_pod_is_that_in_its_last_state(reported: bool) -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        scene.now = START + 60
        await recorder.settle()
        scene.now = START + 100
        scene.store.remove(pod(end=START + 90 if reported else None, version=7))
        scene.now = START + 120
        await recorder.settle()
        assert charged(scene.status) == (90 if reported else 100)
        assert not any(mark.get("estimated") for mark in scene.status["marks"])


async def test_the_pods_of_an_endpoint_are_serving_usage_of_its_namespace() -> None:
    scene = Scene()
    async with scene.leading() as recorder:
        for name, stage in (("base", "base"), ("serving", "serve-shared")):
            scene.endpoints.put(of_endpoint(pod(name, stage=stage)))
        scene.now = START + 60
        await recorder.settle()
        scene.now = START + 100
        scene.endpoints.remove(of_endpoint(pod("serving", stage="serve-shared", version=7)))
        scene.now = START + 120
        await recorder.settle()
    assert [(row["purpose"], row["gpuSeconds"]) for row in scene.status["days"]] == [
        ("serving", 100)
    ]
    (mark,) = scene.status["marks"]
    assert (mark["key"], mark["job"]) == ("serve/uid-of-serving", "shared")
    assert not mark.get("estimated")


async def test_the_pod_of_an_endpoint_that_is_listed_late_is_charged_once() -> None:
    """After a restart, usage may be settled before the pods of endpoints are known."""
    scene = Scene()
    async with scene.leading() as recorder:
        scene.endpoints.put(of_endpoint(pod("serving", stage="serve-shared")))
        scene.now = START + 60
        await recorder.settle()
    other = Scene(scene.kube)
    async with other.leading() as recorder:
        other.now = START + 80
        await recorder.settle()
        other.endpoints.put(of_endpoint(pod("serving", stage="serve-shared")))
        other.now = START + 200
        await recorder.settle()
        assert charged(other.status) == 200
        assert not other.status["marks"][0].get("estimated")


def of_endpoint(body: Any) -> Any:
    labels = {
        name: value
        for name, value in body["metadata"]["labels"].items()
        if name in ("finetune.dev/stage", "app.kubernetes.io/managed-by")
    }
    return {
        **body,
        "metadata": {**body["metadata"], "labels": {**labels, "finetune.dev/endpoint": "shared"}},
    }


async def test_a_new_leader_charges_only_what_is_missing() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        scene.now = START + 60
        await recorder.settle()
    other = Scene(scene.kube)
    other.put_job(**training("Running"))
    other.store.put(pod())
    other.now = START + 200
    async with other.leading() as recorder:
        await recorder.settle()
        assert charged(other.status) == 200
        # The former leader still runs, with old information.
        scene.now = START + 150
        await scene.recorder.settle()
        assert charged(other.status) == 200


async def test_after_a_conflict_the_object_is_read_again_and_the_reservation_written() -> None:
    scene = Scene()
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        other = Scene(scene.kube)
        async with other.leading() as replacement:
            await replacement.reserve(request("train/second/rev"))
        assert await recorder.reserve(request("train/third/rev"))
        assert len(recorder.of("a").reservations) == 3


async def test_a_write_whose_response_was_lost_is_not_repeated() -> None:
    class LostResponse(MemoryKube):
        lost = False

        async def replace_status(self, found: Any, status: Any) -> Any:
            written = await super().replace_status(found, status)
            if self.lost:
                self.lost = False
                raise Transient("no response")
            return written

    kube = LostResponse()
    scene = Scene(kube)
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        kube.lost, scene.now = True, START + 60
        await recorder.settle()
        assert charged(scene.status) == 60
        scene.now = START + 61
        await recorder.settle()
        assert charged(scene.status) == 61


def _fails_once(kind: str, verb: str) -> Callable[[str, str, str], OperatorError | None]:
    failed: list[str] = []

    def fault(of_verb: str, of_kind: str, name: str) -> OperatorError | None:
        if (of_verb, of_kind) == (verb, kind) and not failed:
            failed.append(name)
            return Transient("the API server is away")
        return None

    return fault


@pytest.mark.parametrize("verb", ["create", "status"])
async def test_a_crash_at_the_end_of_a_month_loses_and_repeats_nothing(verb: str) -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    start = NOVEMBER.end - 300
    scene.now = start
    async with scene.leading() as recorder:
        await recorder.reserve(request(cap=10_000))
        scene.store.put(pod(start=start))
        scene.now = start + 60
        await recorder.settle()
        scene.now = NOVEMBER.end + 100
        scene.kube.fault = _fails_once("FineTuneUsage", verb)
        await recorder.settle()
    other = Scene(scene.kube)
    other.put_job(**training("Running"))
    other.store.put(pod(start=start))
    other.now = NOVEMBER.end + 200
    async with other.leading() as recorder:
        await recorder.settle()
        december = scene.kube.objects["FineTuneUsage", "", "a-2026-12"]["status"]
        assert (charged(other.status), charged(december)) == (300, 200)
        assert other.status["closed"]
        assert recorder.of("a").reservations[KEY].remaining == 10_000 - 500
        assert sum(use.gpu_seconds for use in recorder.of("a").days.values()) == 500


async def test_a_reservation_ends_only_if_the_api_server_confirms_that_the_job_is_gone() -> None:
    body = job(**training("Running"))
    body["metadata"]["resourceVersion"] = "9"
    scene = Scene(MemoryKube(body))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.now = START + 3600
        await recorder.settle()
        assert KEY in recorder.of("a").reservations, "the cache lacks the job"
        del scene.kube.objects["FineTuneJob", "a", "demo"]
        await recorder.settle()
        assert not recorder.of("a").reservations


async def test_the_reservation_of_a_replaced_revision_is_released() -> None:
    """Its Job ended when the spec was edited, so nobody has recorded the end of the attempt."""
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.now = START + 3600
        await recorder.settle()
        assert recorder.of("a").reservations
        scene.put_job(**{**training("Running"), "revision": "other"})
        await recorder.settle()
        assert not recorder.of("a").reservations


async def test_a_reservation_that_was_never_used_is_released() -> None:
    scene = Scene()
    scene.put_job(revisions=[])
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.now = START + 59
        await recorder.settle()
        assert recorder.of("a").reservations
        scene.now = START + 60
        await recorder.settle()
        assert not recorder.of("a").reservations


async def test_without_the_records_nothing_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.controller.usage.LOADED_WITHIN", 0.01)
    scene = Scene()
    with pytest.raises(Transient, match="FineTuneUsages"):
        await scene.recorder.reserve(request())
    assert not scene.kube.calls


async def test_serving_pods_are_charged_at_the_price_of_their_revision() -> None:
    scene = Scene()
    frozen = {
        "operator": '{"profile": {"name": "p", "price": {"perGpuHour": "3.60", "currency": "EUR"}}}'
    }
    scene.put_job(revisions=[{"revision": "rev", "stages": [], "frozen": frozen}])
    scene.store.put(pod(stage="serve"))
    scene.now = START + 1000
    async with scene.leading() as recorder:
        await recorder.settle()
        (row,) = scene.status["days"]
        assert (row["purpose"], row["gpuSeconds"], row["cost"]) == ("serving", 1000, "1.0000")
        assert scene.status["marks"][0]["key"] == "serve/uid-of-pod"


async def test_a_pod_of_a_deleted_job_is_not_charged_to_the_next_job_of_its_name() -> None:
    scene = Scene()
    earlier, present = pod(), job(**training("Running"))
    earlier["metadata"]["creationTimestamp"] = stamp(START)
    present["metadata"] |= {"creationTimestamp": stamp(START + 1), "resourceVersion": "100"}
    for body in (earlier, present):
        scene.store.put(body)
    scene.now = START + 1000
    async with scene.leading() as recorder:
        await recorder.settle()
    assert charged(scene.status) == 1000
    assert {mark["key"] for mark in scene.status["marks"]} == {
        "train/-/rev",
        "train/-/rev/uid-of-pod",
    }


@pytest.mark.parametrize("again", [False, True])
async def test_the_pod_of_a_deleted_job_keeps_its_reservation(again: bool) -> None:
    """Also if it got its node after the deletion, and if another job has the same spec."""
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request(cap=5000))
        deleted = scene.store.owner(("a", "demo"))
        assert deleted is not None
        scene.store.remove(deleted)
        if again:
            next_job = job(**training("Running"))
            next_job["metadata"] |= {
                "uid": "next",
                "creationTimestamp": stamp(START + 500),
                "resourceVersion": "900",
            }
            scene.store.put(next_job)
            scene.now = START + 500
            await recorder.reserve(request("train/next/rev", cap=7000))
        orphan = pod()
        orphan["metadata"]["creationTimestamp"] = stamp(START)
        scene.store.put(orphan)
        scene.now = START + 1000
        await recorder.settle()
        reservations = recorder.of("a").reservations
        assert {key: each.remaining for key, each in reservations.items()} == {
            KEY: 4000,
            **({"train/next/rev": 7000} if again else {}),
        }


async def test_other_pods_and_pods_without_a_node_are_not_charged() -> None:
    scene = Scene()
    scene.put_job()
    waiting = pod("waiting")
    waiting["status"]["conditions"][0]["status"] = "False"
    for each in (pod("merging", stage="merge"), waiting):
        scene.store.put(each)
    scene.now = START + 1000
    async with scene.leading() as recorder:
        await recorder.settle()
    assert not scene.kube.calls


async def test_a_standby_remembers_nothing() -> None:
    scene = Scene()
    async with scene.leading():
        pass
    task = asyncio.create_task(scene.recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    scene.store.put(pod())
    scene.store.remove(pod(version=6))
    assert not scene.recorder.pods.removed
    assert not scene.recorder.usage().namespaces


async def test_an_object_that_cannot_be_read_stops_only_its_namespace() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
    scene.status["marks"][0]["at"] = "yesterday"
    other = Scene(scene.kube)
    async with other.leading() as recorder:
        with pytest.raises(Transient, match=f"FineTuneUsage {NAME} cannot be read.*delete it"):
            await recorder.reserve(request())
        await recorder.settle()
        assert await recorder.reserve(ReservationRequest(**{**vars(request()), "namespace": "b"}))
        del scene.kube.objects["FineTuneUsage", "", NAME]
        with pytest.raises(Transient):
            await recorder.reserve(request())
        assert await recorder.reserve(request()), "it was read again"


class Forbidding(MemoryKube):
    """Rejects reads in a namespace, as after the deletion of the Role there."""

    async def get(self, kind: str, namespace: str, name: str) -> Any:
        raise Terminal("403 forbidden")

    async def list(self, kind: str, namespace: str = "", **how: Any) -> Any:
        if namespace == "a":
            raise Terminal("403 forbidden")
        return await super().list(kind, namespace, **how)


async def test_a_reservation_ends_with_its_namespace() -> None:
    scene = Scene(Forbidding())
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.now = START + 3600
        await recorder.settle()
        assert not recorder.of("a").reservations


async def test_a_pod_without_its_labels_is_charged_until_it_ends() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        scene.now = START + 60
        await recorder.settle()
        changed = pod(version=6)
        del changed["metadata"]["labels"]["finetune.dev/stage"]
        scene.store.put(changed)
        scene.now = START + 120
        await recorder.settle()
        scene.kube.objects["Pod", "a", "pod"] = changed
        scene.store.remove({**changed, "metadata": {**changed["metadata"], "resourceVersion": "7"}})
        scene.now = START + 180
        await recorder.settle()
        assert charged(scene.status) == 180
        assert not any(mark.get("estimated") for mark in scene.status["marks"])


async def test_a_pod_that_loses_its_label_is_charged_until_it_ends() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        for minute in (1, 2, 3):
            body = pod(end=START + 170 if minute == 3 else None, version=5 + minute)
            del body["metadata"]["labels"]["finetune.dev/job"]
            scene.kube.objects["Pod", "a", "pod"] = body
            if minute == 1:
                scene.store.remove(pod(version=6))
            scene.now = START + 60 * minute
            await recorder.settle()
            assert charged(scene.status) == min(60 * minute, 170)
        assert not recorder.pods.removed
        assert not any(mark.get("estimated") for mark in scene.status["marks"])


async def test_a_pod_that_loses_its_label_before_it_has_a_node_is_charged() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    waiting = pod(version=6)
    waiting["status"] = {"phase": "Pending"}
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.kube.objects["Pod", "a", "pod"] = waiting
        scene.store.put(waiting)
        scene.store.remove(waiting)
        scene.now = START + 60
        await recorder.settle()
        assert charged(scene.status) == 0
        scene.kube.objects["Pod", "a", "pod"] = pod(start=START + 100)
        scene.now = START + 160
        await recorder.settle()
        assert charged(scene.status) == 60


@pytest.mark.parametrize("reported", [True, False])
async def test_a_pod_that_is_deleted_before_it_has_a_node_is_forgotten(reported: bool) -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    waiting = pod()
    waiting["status"] = {"phase": "Pending"}
    if reported:
        waiting["metadata"]["deletionTimestamp"] = stamp(START)
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(waiting)
        scene.store.remove(waiting)
        assert bool(recorder.pods.removed) is not reported
        await recorder.settle()
        assert not recorder.pods.removed
        assert charged(scene.status) == 0


async def test_a_pod_of_the_same_name_is_another_one() -> None:
    scene = Scene()
    scene.put_job(**training("Running"))
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        scene.store.put(pod())
        replacement = pod(version=9)
        replacement["metadata"]["uid"] = "uid-of-another"
        scene.kube.objects["Pod", "a", "pod"] = replacement
        scene.now = START + 40
        scene.store.remove(pod(version=6))
        scene.now = START + 60
        await recorder.settle()
        assert charged(scene.status) == 40


async def test_pods_that_their_node_rejects_leave_no_marks() -> None:
    scene = Scene()
    scene.put_job()
    async with scene.leading() as recorder:
        for number in range(20):
            rejected = pod(f"pod-{number}", stage="serve")
            rejected["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
            scene.store.put(rejected)
            if number % 2:
                scene.now = START + 3600
                scene.store.remove(rejected)
        await recorder.settle()
        assert not recorder.pods.removed
    assert not scene.kube.calls


async def after(scene: Scene, now: int) -> Scene:
    """Return a scene in which another process leads from a time on."""
    other = Scene(scene.kube)
    other.put_job(**training("Completed"))
    other.now = now
    await other.recorder._load()
    return other


async def test_what_a_training_has_used_is_known_after_a_pause_of_months() -> None:
    scene = Scene()
    scene.put_job(**training("Completed"))
    scene.store.put(pod(end=START + 200))
    scene.now = START + 600
    async with scene.leading() as recorder:
        await recorder.settle()
    later = await after(scene, NOVEMBER.next.next.next.start + 100)
    assert later.recorder.of("a").trained == {KEY: 200}
    # Created, but never written.
    await scene.kube.create(records.body_of("a", NOVEMBER.next.next.next))
    later = await after(scene, NOVEMBER.next.next.next.start + 100)
    assert later.recorder.of("a").trained == {KEY: 200}


async def test_a_month_that_ended_without_an_operator_is_closed() -> None:
    scene = Scene()
    scene.put_job(**training("Completed"))
    scene.store.put(pod(end=START + 200))
    scene.now = START + 600
    async with scene.leading() as recorder:
        await recorder.settle()
    later = await after(scene, NOVEMBER.next.next.start + 100)
    await later.recorder.settle()
    assert scene.status["closed"]
    assert charged(scene.status) == 200
    assert later.recorder.of("a").trained == {KEY: 200}


async def test_the_usage_is_not_read_before_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_operator.controller.usage.LOADED_WITHIN", 0.01)
    scene = Scene()
    with pytest.raises(Transient):
        await scene.recorder.read("a")
    async with scene.leading() as recorder:
        await recorder.reserve(request())
        assert KEY in (await recorder.read("a")).reservations
