"""What a look asks for, and what it does not."""

from typing import Any

import pytest
from tests.fakes.kube_client import MemoryKube, child, job

from finetune_operator.snapshot.reader import doubtful, observe, silent, talkative
from finetune_operator.types import Object, Progress


def pod(name: str, stage: str, phase: str = "Running", ip: str = "10.0.0.1") -> dict[str, Any]:
    found: dict[str, Any] = child("Pod", name, status={"phase": phase, "podIP": ip})
    found["metadata"]["labels"]["finetune.dev/stage"] = stage
    return found


async def nothing(address: str, port: int) -> str | None:
    raise AssertionError(f"{address} was asked")


async def test_there_is_nothing_to_see_of_a_job_that_is_gone() -> None:
    assert await observe(MemoryKube(), "a", "demo", nothing) is None


async def test_all_that_carries_the_label_is_seen_whoever_owns_it() -> None:
    kube = MemoryKube(
        job(), child("Pod", "p", owner=None), child("Job", "j"), child("ConfigMap", "c")
    )
    snapshot = await observe(kube, "a", "demo", nothing)
    assert snapshot is not None
    assert [
        each["metadata"]["name"] for each in (*snapshot.pods, *snapshot.jobs, *snapshot.configmaps)
    ] == [
        "p",
        "j",
        "c",
    ]


async def test_an_idle_look_costs_one_get_and_eight_lists() -> None:
    kube = MemoryKube(
        job(),
        pod("served", "serve"),
        child("PersistentVolumeClaim", "v", status={"phase": "Bound"}),
        child("Job", "j", status={"conditions": [{"type": "Complete", "status": "True"}]}),
    )
    await observe(kube, "a", "demo", nothing)
    assert kube.reads == 9


async def test_the_running_trainer_is_asked_for_its_progress() -> None:
    async def scrape(address: str, port: int) -> str | None:
        return f"finetune_global_step {address.rpartition('.')[2]}" if port == 9400 else None

    kube = MemoryKube(job(), pod("s", "prepare", ip="10.0.0.3"), pod("t", "train", ip="10.0.0.7"))
    snapshot = await observe(kube, "a", "demo", scrape)
    assert snapshot is not None
    assert snapshot.progress == Progress(global_step=7)


@pytest.mark.parametrize(("uid", "expected"), [("own", Progress(global_step=7)), ("other", None)])
async def test_the_steps_of_whoever_has_the_pods_address_now_are_not_its_own(
    uid: str, expected: Progress | None
) -> None:
    """An address is used again; the look counts as one that got no answer, and reads all."""

    async def scrape(address: str, port: int) -> str | None:
        return f'finetune_pod_info{{uid="{uid}"}} 1\nfinetune_global_step 7\n'

    trains = pod("t", "train")
    trains["metadata"]["uid"] = "own"
    snapshot = await observe(MemoryKube(job(), trains), "a", "demo", scrape)
    assert snapshot is not None
    assert snapshot.progress == expected
    assert silent(snapshot) is (expected is None)


@pytest.mark.parametrize(
    "silent_pod",
    [
        pod("p", "train", phase="Pending"),
        pod("p", "train", phase="Succeeded"),
        pod("p", "train", ip=""),
        pod("p", "serve"),
    ],
    ids=["pending", "ended", "without an address", "vLLM"],
)
def test_no_other_pod_is_asked(silent_pod: dict[str, Any]) -> None:
    assert talkative([silent_pod]) is None


def test_a_pod_that_is_being_deleted_is_not_asked() -> None:
    going = pod("p", "train")
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert talkative([going]) is None


def test_warnings_are_asked_for_about_what_does_not_run() -> None:
    pending = pod("pending", "train", phase="Pending")
    unbound = child("PersistentVolumeClaim", "unbound", status={"phase": "Pending"})
    stuck = child("Job", "stuck", status={"active": 0})
    found = doubtful(
        volumes=[unbound, child("PersistentVolumeClaim", "bound", status={"phase": "Bound"})],
        jobs=[
            stuck,
            child("Job", "ready", status={"ready": 1}),
            child("Job", "over", status={"conditions": [{"type": "Failed", "status": "True"}]}),
        ],
        pods=[pending, pod("runs", "prepare")],
    )
    assert {each["metadata"]["name"] for each in found} == {"pending", "unbound", "stuck"}


async def test_of_a_suspended_job_all_is_asked_for() -> None:
    """That Kueue has given a Job up is no warning to it."""
    asked: list[str] = []

    class Asked(MemoryKube):
        async def list(self, kind: str, namespace: str = "", **how: Any) -> tuple[Object, ...]:
            asked.append(how.get("fields", ""))
            return await super().list(kind, namespace, **how)

    jobs = {name: child("Job", name, spec={"suspend": name == "held"}) for name in ("held", "free")}
    for name, each in jobs.items():
        each["metadata"]["uid"] = name
    await observe(Asked(job(), *jobs.values()), "a", "demo", nothing)
    assert {"involvedObject.uid=held", "type=Warning,involvedObject.uid=free"} == {*asked} - {""}


def test_the_number_of_questions_has_an_end() -> None:
    pods = [pod(f"p{number}", "train", phase="Pending") for number in range(50)]
    assert len(doubtful(volumes=[], jobs=[], pods=pods)) == 6
