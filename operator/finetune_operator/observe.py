"""One look at a job: everything that carries its label, read live and at once.

Nothing is cached. Watches can lose a deletion, and a plan made from a stale list could start a
second trainer. A look that finds all well costs one GET and eight lists; warnings are asked for
only about what does not run, and metrics only of a pod that does.
"""

import asyncio
from collections.abc import Iterable

from finetune_operator import outcome, progress, verification
from finetune_operator.children import names
from finetune_operator.kinds import CORE_EVENT
from finetune_operator.kube import Kube
from finetune_operator.scrape import Scrape
from finetune_operator.state import Object, Observed, Progress, Verification

MOST_EVENTS = 20
MOST_QUESTIONS = 6
_SCRAPED = ("train", "merge", "stage")


async def observe(kube: Kube, namespace: str, name: str, scrape: Scrape) -> Observed | None:
    """Return what there is of a job now, None where there is no such job. Raises OperatorError."""
    selector = f"{names.JOB}={name}"
    kinds = (
        "ConfigMap",
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
    )
    job, (jobs, pods), lists = await asyncio.gather(
        kube.get("FineTuneJob", namespace, name),
        _jobs_then_pods(kube, namespace, selector),
        asyncio.gather(*(kube.list(kind, namespace, labels=selector) for kind in kinds)),
    )
    if job is None:
        return None
    configmaps, volumes, deployments, services, networkpolicies, budgets = lists
    events, measured, verified = await asyncio.gather(
        _warnings(kube, namespace, doubtful(volumes=volumes, jobs=jobs, pods=pods)),
        _progress(pods, scrape),
        _verification(job, pods, scrape),
    )
    return Observed(
        job=job,
        configmaps=configmaps,
        volumes=volumes,
        jobs=jobs,
        pods=pods,
        deployments=deployments,
        services=services,
        networkpolicies=networkpolicies,
        budgets=budgets,
        events=events,
        progress=measured,
        verification=verified,
    )


async def _jobs_then_pods(
    kube: Kube, namespace: str, selector: str
) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
    """List Jobs, and pods after them.

    A pod list that is older than the Job list could show an ended Job beside pods that still run:
    its result would be missed, and so would a pod that a Job's deletion left behind.
    """
    jobs = await kube.list("Job", namespace, labels=selector)
    return jobs, await kube.list("Pod", namespace, labels=selector)


def doubtful(
    *, volumes: Iterable[Object], jobs: Iterable[Object], pods: Iterable[Object]
) -> list[Object]:
    """Return the objects whose warnings may explain why something does not run, newest first."""
    found = [pod for pod in pods if _status(pod).get("phase") in (None, "Pending")]
    found += [volume for volume in volumes if _status(volume).get("phase") != "Bound"]
    found += [job for job in jobs if not _status(job).get("ready") and not outcome.is_over(job)]
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
            if names.label(pod, names.STAGE) == stage:
                return pod
    return None


async def _warnings(kube: Kube, namespace: str, about: list[Object]) -> tuple[Object, ...]:
    lists = await asyncio.gather(
        *(
            kube.list(
                CORE_EVENT,
                namespace,
                fields=f"type=Warning,involvedObject.uid={each['metadata']['uid']}",
                limit=MOST_EVENTS,
            )
            for each in about
        )
    )
    return tuple(event for events in lists for event in events)


async def _progress(pods: Iterable[Object], scrape: Scrape) -> Progress | None:
    pod = talkative(pods)
    if pod is None:
        return None
    text = await scrape(str(pod["status"]["podIP"]), progress.PORT)
    return None if text is None else progress.parsed(text)


async def _verification(
    job: Object | None, pods: Iterable[Object], scrape: Scrape
) -> Verification | None:
    pod = None if job is None else verification.untold(job, pods)
    if pod is None:
        return None
    text = await scrape(str(pod["status"]["podIP"]), verification.PORT)
    return None if text is None else verification.parsed(text, pod)


def _status(each: Object) -> Object:
    status: Object = each.get("status") or {}
    return status
