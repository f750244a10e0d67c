"""One look at a job: what carries its label, read live and at once.

A look that knows nothing costs one GET and eight lists; one that knows what the last look saw reads
what is out of date since (``views``). Events are asked for only about what does not run, and
metrics only of a pod that does.
"""

import asyncio
import dataclasses
from collections.abc import Iterable, Set
from typing import Any

from finetune_operator.kube.client import Kube
from finetune_operator.kube.kinds import CORE_EVENT
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pod_has_ended, pods_of
from finetune_operator.snapshot import trainer_metrics, verifier_metrics
from finetune_operator.snapshot.cache import EVERYTHING, FINETUNEJOB
from finetune_operator.snapshot.scraper import Scrape
from finetune_operator.types import LISTS, Object, Progress, Snapshot, Verification

MOST_EVENTS = 100
MOST_QUESTIONS = 6
_SCRAPED = ("train", "merge", "prepare")


async def observe(
    kube: Kube,
    namespace: str,
    name: str,
    scrape: Scrape,
    *,
    before: Snapshot | None = None,
    kinds: Set[str] = EVERYTHING,
) -> Snapshot | None:
    """Return what there is of a job now, None where there is no such job. Raises OperatorError.

    before: what is known. kinds: what is read nevertheless; without ``before`` that is everything.
    """
    snapshot = await _read(kube, namespace, name, before, kinds)
    if snapshot is None:
        return None
    events, measured, verified = await asyncio.gather(
        _events(kube, namespace, snapshot),
        _progress(snapshot.pods, scrape),
        _verification(snapshot.job, snapshot.pods, scrape),
    )
    return dataclasses.replace(snapshot, events=events, progress=measured, verification=verified)


async def reread(
    kube: Kube, namespace: str, name: str, snapshot: Snapshot, kinds: Set[str]
) -> Snapshot | None:
    """Return what was seen with ``kinds`` read anew; no pod is asked a second time."""
    found = await _read(kube, namespace, name, snapshot, kinds)
    if found is None:
        return None
    return dataclasses.replace(found, events=await _events(kube, namespace, found))


async def _read(
    kube: Kube, namespace: str, name: str, before: Snapshot | None, kinds: Set[str]
) -> Snapshot | None:
    selector = f"{naming.JOB}={name}"
    if before is None:
        kinds = EVERYTHING
    elif "Job" in kinds:
        kinds |= {"Pod"}
    changes: dict[str, Any] = {}

    async def get() -> None:
        changes["job"] = await kube.get(FINETUNEJOB, namespace, name)

    async def list_(kind: str) -> None:
        changes[LISTS[kind]] = await kube.list(kind, namespace, labels=selector)

    async def jobs_then_pods() -> None:
        # A pod list that is older than the Job list could show an ended Job beside pods that still
        # run: its result would be missed, and so would a pod that a Job's deletion left behind.
        for kind in ("Job", "Pod"):
            if kind in kinds:
                await list_(kind)

    others = (kind for kind in LISTS if kind in kinds - {"Job", "Pod"})
    reads = [jobs_then_pods(), *map(list_, others)]
    await asyncio.gather(*reads, *([get()] if FINETUNEJOB in kinds else []))
    if before is None:
        return None if changes["job"] is None else Snapshot(**changes)
    job = changes.get("job", before.job)
    if job is None:
        return None
    if job["metadata"]["uid"] != before.job["metadata"]["uid"]:
        # Another of the same name: what is known is of what the first one owned.
        return await _read(kube, namespace, name, None, EVERYTHING)
    return dataclasses.replace(before, **changes)


def doubtful(
    *, volumes: Iterable[Object], jobs: Iterable[Object], pods: Iterable[Object]
) -> list[Object]:
    """Return the objects whose warnings may explain why something does not run, newest first."""
    found = [pod for pod in pods if _status(pod).get("phase") in (None, "Pending")]
    found += [volume for volume in volumes if _status(volume).get("phase") != "Bound"]
    found += [job for job in jobs if not _status(job).get("ready") and not is_over(job)]
    found.sort(key=lambda each: str(each["metadata"].get("creationTimestamp", "")), reverse=True)
    return found[:MOST_QUESTIONS]


def talkative(pods: Iterable[Object]) -> Object | None:
    """Return the running pod whose metrics are read: the trainer's before any other."""
    running = [
        pod
        for pod in pods
        if _status(pod).get("phase") == "Running"
        and _status(pod).get("podIP")
        and not pod["metadata"].get("deletionTimestamp")
    ]
    for stage in _SCRAPED:
        for pod in running:
            if naming.label(pod, naming.STAGE) == stage:
                return pod
    return None


def silent(snapshot: Snapshot) -> bool:
    """Tell whether a look without reads may have missed an end.

    A pod that should run did not answer; or one has ended whose Job is not known to have.
    """
    if snapshot.progress is None and talkative(snapshot.pods) is not None:
        return True
    return any(
        pod_has_ended(pod)
        for job in snapshot.jobs
        if not is_over(job)
        for pod in pods_of(job, snapshot.pods)[-1:]
    )


async def _events(kube: Kube, namespace: str, snapshot: Snapshot) -> tuple[Object, ...]:
    about = doubtful(volumes=snapshot.volumes, jobs=snapshot.jobs, pods=snapshot.pods)
    lists = await asyncio.gather(
        *(
            kube.list(CORE_EVENT, namespace, fields=_question(each), limit=MOST_EVENTS)
            for each in about
        )
    )
    return tuple(event for events in lists for event in events)


def _question(about: Object) -> str:
    """Return the fields of the events that are asked for: warnings.

    Of a suspended Job it is all: that its queue has given it up is no warning to Kueue.
    """
    events = f"involvedObject.uid={about['metadata']['uid']}"
    suspended = about["kind"] == "Job" and about["spec"].get("suspend")
    return events if suspended else f"type=Warning,{events}"


async def _progress(pods: Iterable[Object], scrape: Scrape) -> Progress | None:
    pod = talkative(pods)
    if pod is None:
        return None
    text = await scrape(str(pod["status"]["podIP"]), trainer_metrics.PORT)
    return None if text is None else trainer_metrics.parsed(text, str(pod["metadata"]["uid"]))


async def _verification(
    job: Object | None, pods: Iterable[Object], scrape: Scrape
) -> Verification | None:
    pod = None if job is None else verifier_metrics.untold(job, pods)
    if pod is None:
        return None
    text = await scrape(str(pod["status"]["podIP"]), verifier_metrics.PORT)
    return None if text is None else verifier_metrics.parsed(text, pod)


def _status(each: Object) -> Object:
    status: Object = each.get("status") or {}
    return status
