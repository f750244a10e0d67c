"""Reads the snapshot of a job: the job and all objects with its label, live and concurrently.

A read without a cached snapshot costs one GET and eight lists; with one, only stale kinds are read
(``cache``). Events are listed only for objects that do not run. Metrics of pods are the last values
of the ``scraper``; a read does not wait for them.
"""

import asyncio
import dataclasses
from collections.abc import Iterable, Set
from typing import Any

from finetune_operator.kube.client import Kube
from finetune_operator.kube.kinds import CORE_EVENT, FINETUNEJOB
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pod_has_ended, pods_of
from finetune_operator.snapshot.cache import ALL_KINDS
from finetune_operator.snapshot.scraper import PodMetrics
from finetune_operator.snapshot.targets import targets
from finetune_operator.types import LISTS, Key, Object, Progress, Snapshot, Verification

MAX_EVENTS = 100
MAX_PENDING_OBJECTS = 6


async def read(
    kube: Kube,
    key: Key,
    metrics: PodMetrics,
    *,
    cached: Snapshot | None = None,
    kinds: Set[str] = ALL_KINDS,
) -> Snapshot | None:
    """Return the snapshot of a job, None if the job does not exist. Raises OperatorError.

    kinds: the kinds that are read instead of taken from ``cached``; without ``cached`` all are.
    """
    snapshot = await _read(kube, key, cached, kinds)
    if snapshot is None:
        return None
    events = await _events(kube, key, snapshot)
    values = metrics.latest(key, targets(snapshot))
    return dataclasses.replace(
        snapshot,
        events=events,
        progress=next((each for each in values if isinstance(each, Progress)), None),
        verification=next((each for each in values if isinstance(each, Verification)), None),
        loaded=next((each for each in values if isinstance(each, float)), None),
    )


async def confirm(kube: Kube, key: Key, snapshot: Snapshot, kinds: Set[str]) -> Snapshot | None:
    """Return the snapshot after a live read of ``kinds``, with the same metrics."""
    confirmed = await _read(kube, key, snapshot, kinds)
    if confirmed is None:
        return None
    return dataclasses.replace(confirmed, events=await _events(kube, key, confirmed))


async def _read(kube: Kube, key: Key, cached: Snapshot | None, kinds: Set[str]) -> Snapshot | None:
    namespace, name = key
    selector = f"{naming.JOB}={name}"
    if cached is None:
        kinds = ALL_KINDS
    elif "Job" in kinds:
        kinds |= {"Pod"}
    changes: dict[str, Any] = {}

    async def get() -> None:
        changes["job"] = await kube.get(FINETUNEJOB, namespace, name)

    async def list_(kind: str) -> None:
        changes[LISTS[kind]] = await kube.list(kind, namespace, labels=selector)

    async def jobs_then_pods() -> None:
        # A pod list that is older than the Job list could show running pods of a finished Job. Its
        # result would be missed, and so would a pod that survived the deletion of its Job.
        for kind in ("Job", "Pod"):
            if kind in kinds:
                await list_(kind)

    others = (kind for kind in LISTS if kind in kinds - {"Job", "Pod"})
    reads = [jobs_then_pods(), *map(list_, others)]
    await asyncio.gather(*reads, *([get()] if FINETUNEJOB in kinds else []))
    if cached is None:
        return None if changes["job"] is None else Snapshot(**changes)
    job = changes.get("job", cached.job)
    if job is None:
        return None
    if job["metadata"]["uid"] != cached.job["metadata"]["uid"]:
        # The job was re-created: the cached children are those of the earlier job.
        return await _read(kube, key, None, ALL_KINDS)
    return dataclasses.replace(cached, **changes)


def pending_objects(
    *, volumes: Iterable[Object], jobs: Iterable[Object], pods: Iterable[Object]
) -> list[Object]:
    """Return the newest objects that do not run, whose events may contain the cause."""
    pending = [pod for pod in pods if _status(pod).get("phase") in (None, "Pending")]
    pending += [volume for volume in volumes if _status(volume).get("phase") != "Bound"]
    pending += [job for job in jobs if not _status(job).get("ready") and not is_over(job)]
    pending.sort(key=lambda each: str(each["metadata"].get("creationTimestamp", "")), reverse=True)
    return pending[:MAX_PENDING_OBJECTS]


def may_be_stale(snapshot: Snapshot) -> bool:
    """Report whether a cached snapshot may have missed the end of a Job: its last pod has ended."""
    return any(
        pod_has_ended(pod)
        for job in snapshot.jobs
        if not is_over(job)
        for pod in pods_of(job, snapshot.pods)[-1:]
    )


async def _events(kube: Kube, key: Key, snapshot: Snapshot) -> tuple[Object, ...]:
    pending = pending_objects(volumes=snapshot.volumes, jobs=snapshot.jobs, pods=snapshot.pods)
    lists = await asyncio.gather(
        *(
            kube.list(CORE_EVENT, key[0], fields=_event_fields(each), limit=MAX_EVENTS)
            for each in pending
        )
    )
    return tuple(event for events in lists for event in events)


def _event_fields(regarding: Object) -> str:
    """Return the field selector for the warnings about an object.

    All events of a suspended Job are read: Kueue does not report as a warning that it finished the
    Workload of a Job.
    """
    events = f"involvedObject.uid={regarding['metadata']['uid']}"
    suspended = regarding["kind"] == "Job" and regarding["spec"].get("suspend")
    return events if suspended else f"type=Warning,{events}"


def _status(each: Object) -> Object:
    status: Object = each.get("status") or {}
    return status
