"""``python bench tenants``: memory and fairness while one tenant floods the operator.

kube-apiserver, etcd, controller manager and operator are real processes on this machine. Each flood
starts with an empty cluster and a new operator:

* edits of one suspended job with the largest spec, as fast as the API server accepts them;
* jobs with annotations of the largest size, created before the operator starts;
* other objects of the largest size with the label of a job, while the operator runs, and from the
  start of another operator on;
* many new jobs at once, and an endless loop of edits, while another tenant creates jobs.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from statistics import quantiles
from time import monotonic
from typing import Any

from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import OperatorProcess, operator

from bench.simulated import harness
from bench.simulated.api_client import Api
from bench.simulated.world import MERGE
from bench.table import table

ATTACKER, VICTIM = "attacker", "victim"
ANNOTATION_BYTES = 250_000
TEMPLATE = "🎉" * 65_500
"""Almost the longest chat template, of four bytes per character."""
LARGE = "x" * ((1 << 20) - 100)
"""Almost all that an object may contain: 1 MiB in a ConfigMap, 1.5 MiB in a request."""
SAMPLES = 20
PAUSE_SECONDS = 1.0
CREATORS = 8
DATASET = {"source": "hf://acme/data", "format": "messages"}
"""Rows whose chat template can be edited."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--edits", type=int, default=1000, help="edits of the largest job")
    parser.add_argument("--annotated", type=int, default=1000, help="jobs with large annotations")
    parser.add_argument("--objects", type=int, default=500, help="labelled objects of each kind")
    parser.add_argument("--jobs", type=int, default=5000, help="new jobs of one tenant at once")


def measure(options: argparse.Namespace) -> str:
    """Run the floods and return the table."""
    rows = [
        *_edits(options.edits),
        *_annotations(options.annotated),
        *_objects(options.objects),
        *_fairness(options.jobs),
    ]
    return table(("flood of one tenant", "result"), rows)


def _edits(count: int) -> Iterator[tuple[str, str]]:
    print(f"==> {count} edits of the largest job", flush=True)
    with (
        harness.cluster() as (plane, folder),
        operator(plane, folder, harness.CONFIG) as running,
    ):
        peak = asyncio.run(_peak_during(plane, running, _edit(count)))
    yield f"peak memory during {count:,} edits of one job of the largest size (goal: 300 MiB)", peak


def _annotations(count: int) -> Iterator[tuple[str, str]]:
    print(f"==> {count} jobs with large annotations", flush=True)
    with harness.cluster() as (plane, folder):
        asyncio.run(_with_api(plane, _annotated(count)))
        with operator(plane, folder, harness.CONFIG) as running:
            peak = asyncio.run(_peak_during(plane, running, _reconciled(running, count)))
    kilobytes = ANNOTATION_BYTES // 1000
    yield (
        f"peak memory with {count:,} jobs with {kilobytes} kB of annotations, from the start on "
        "(goal: 300 MiB)",
        peak,
    )


def _objects(count: int) -> Iterator[tuple[str, str]]:
    print(f"==> {count} labelled objects of each kind", flush=True)
    flood = f"{count:,} ConfigMaps, pods and Jobs each, of 1 MiB, with a label"
    with harness.cluster() as (plane, folder):
        with operator(plane, folder, harness.CONFIG) as running:
            during = asyncio.run(_peak_during(plane, running, _labelled(count)))
        with operator(plane, folder, harness.CONFIG) as running:
            later = asyncio.run(_peak_during(plane, running, _edited_and_reconciled(running)))
    yield f"peak memory while {flood} are created (goal: 300 MiB)", during
    yield f"peak memory with {flood}, from the start on (goal: 300 MiB)", later


def _fairness(count: int) -> Iterator[tuple[str, str]]:
    print(f"==> {count} new jobs at once, then endless edits", flush=True)
    with (
        harness.cluster() as (plane, folder),
        operator(plane, folder, harness.CONFIG) as running,
    ):
        waits = asyncio.run(_waits(plane, running, count))
        peak = _peak(running)
    yield f"peak memory with {count:,} new jobs at once, then endless edits (goal: 300 MiB)", peak
    for name, seconds in waits.items():
        p95 = quantiles(seconds, n=20)[-1]
        yield (
            f"time until a job of another tenant has its first child, {name} (p95 of "
            f"{len(seconds)}; goal: 2.5 s)",
            f"{p95:.2f} s (median {sorted(seconds)[len(seconds) // 2]:.2f} s)",
        )


async def _with_api(plane: ControlPlane, work: Any) -> Any:
    async with Api(plane) as api:
        for name in (ATTACKER, VICTIM):
            await api.create_namespace(name)
        return await work(api)


async def _peak_during(plane: ControlPlane, running: OperatorProcess, work: Any) -> str:
    """Return the largest resident memory of the operator from its start to 5 s after some work."""
    await _with_api(plane, work)
    await asyncio.sleep(5)
    return _peak(running)


def _peak(running: OperatorProcess) -> str:
    return f"{harness.resident_bytes(running, peak=True) / 2**20:.0f} MiB"


def _edit(count: int) -> Any:
    async def work(api: Api) -> None:
        path = await _create(api, ATTACKER, "edited", suspend=True)
        for number in range(count):
            dataset = {"chatTemplate": f"{number:05}{TEMPLATE}"}
            await api.send("PATCH", path, {"spec": {"dataset": dataset}}, MERGE)

    return work


def _annotated(count: int) -> Any:
    async def work(api: Api) -> None:
        note = {"note": "x" * ANNOTATION_BYTES}
        await _many(api, count, suspend=True, annotations=note)

    return work


def _labelled(count: int) -> Any:
    """Create objects with the label of a job, which the operator watches."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x", "args": [LARGE]}]}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/api/v1/namespaces/{}/configmaps", {"data": {"operator.json": LARGE}}),
        ("/api/v1/namespaces/{}/pods", {"spec": pod}),
        (
            "/apis/batch/v1/namespaces/{}/jobs",
            {"spec": {"suspend": True, "template": {"spec": pod}}},
        ),
    )

    async def work(api: Api) -> None:
        await _create(api, ATTACKER, "labelled", suspend=True)
        labels = {"finetune.dev/job": "labelled"}
        for number in range(count):
            metadata = {"name": f"large-{number}", "labels": labels}
            for path, body in kinds:
                await api.send("POST", path.format(ATTACKER), {"metadata": metadata, **body})

    return work


def _edited_and_reconciled(running: OperatorProcess) -> Any:
    """Change the job, which lists its labelled objects, and wait for its reconcile."""

    async def work(api: Api) -> None:
        before = harness.reconciles(running)
        path = harness.path(ATTACKER, "labelled")
        await api.send("PATCH", path, {"spec": {"suspend": False}}, MERGE)
        await harness.until("the job is reconciled", lambda: harness.reconciles(running) > before)

    return work


def _reconciled(running: OperatorProcess, count: int) -> Any:
    async def work(api: Api) -> None:
        await harness.until("every job is reconciled", lambda: harness.reconciles(running) >= count)

    return work


async def _waits(
    plane: ControlPlane, running: OperatorProcess, count: int
) -> dict[str, list[float]]:
    waits: dict[str, list[float]] = {}

    async def work(api: Api) -> None:
        victim = Victim(api)
        waits["idle"] = await victim.samples()
        flood = asyncio.create_task(_many(api, count))
        waits[f"while {count:,} jobs are created"] = await victim.samples()
        await flood
        waits[f"after {count:,} jobs were created"] = await victim.samples()
        async with _endless_edits(api):
            waits["during endless edits of one job"] = await victim.samples()

    await _with_api(plane, work)
    return waits


class Victim:
    """A tenant that creates one job after another."""

    def __init__(self, api: Api) -> None:
        self._api, self._number = api, 0

    async def samples(self) -> list[float]:
        """Return the seconds until each of some jobs has its first child."""
        seconds = []
        for _ in range(SAMPLES):
            seconds.append(await self._sample())
            await asyncio.sleep(PAUSE_SECONDS)
        return seconds

    async def _sample(self) -> float:
        self._number += 1
        name = f"job-{self._number}"
        began = monotonic()
        await _create(self._api, VICTIM, name)
        path = f"/api/v1/namespaces/{VICTIM}/persistentvolumeclaims"
        query = f"labelSelector=finetune.dev/job={name}"
        async for _ in self._api.watch(path, query):
            break
        return monotonic() - began


@asynccontextmanager
async def _endless_edits(api: Api) -> AsyncIterator[None]:
    path = await _create(api, ATTACKER, "endless", suspend=True)

    async def edit() -> None:
        seed = 0
        while True:
            seed += 1
            await api.send("PATCH", path, {"spec": {"training": {"seed": seed}}}, MERGE)

    editing = asyncio.create_task(edit())
    try:
        yield
    finally:
        editing.cancel()
        await asyncio.gather(editing, return_exceptions=True)


async def _many(api: Api, count: int, **how: Any) -> None:
    """Create jobs of the attacker, some at a time."""
    await harness.concurrently(
        count, lambda number: _create(api, ATTACKER, f"flood-{number}", **how), at_once=CREATORS
    )


async def _create(
    api: Api, namespace: str, name: str, *, suspend: bool = False, **metadata: Any
) -> str:
    """Create a job; return its path."""
    body = harness.job(name, dataset=DATASET, suspend=suspend)
    body["metadata"] |= metadata
    await api.send("POST", harness.path(namespace), body)
    return harness.path(namespace, name)
