"""The folders of jobs on the claim of an endpoint, and the Jobs that remove them. Pure.

A job is listed as soon as it refers to the endpoint, and publishes to no folder that is not listed.
It stays listed while it exists, because it may move to another endpoint and back. The folder of a
deleted job is removed by a Job, one at a time, and leaves the list once that Job has completed. No
other job ever gets the same UID, so such a Job may run at any later time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.v1alpha1.endpoints.status import MOST_FOLDERS, JobFolder, WantedNames
from finetune_operator.actions import Action, Apply, Create
from finetune_operator.manifests.endpoints import network, prune_job
from finetune_operator.objects import conditions, deployments, endpoints, naming
from finetune_operator.objects.jobs import created, is_over
from finetune_operator.reconcile.endpoints.base import deletions
from finetune_operator.reconcile.endpoints.parts import Parts
from finetune_operator.types import EndpointSnapshot, Object

MOST_FAILED = 5
"""Failed Jobs after which no other one starts: they have the same cause, such as a volume that is
read-only, and each one keeps its pods."""
LATE = timedelta(minutes=10)
"""Age from which a Job that has not ended is reported: most run for seconds."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """The folders that the claim may have."""

    listed: tuple[JobFolder, ...]
    actions: tuple[Action, ...]
    problem: str
    """Why a folder has not been removed, as a sentence; empty if there is no problem."""


def folders(
    parts: Parts, deployment: Object | None, number: WantedNames | None, *, lost: bool
) -> Folders:
    """Return the folders, and the next Job that removes one.

    number: of the list of names; lost: whether the claim was deleted or replaced.
    """
    snapshot, jobs = parts.snapshot, prune_jobs(parts.snapshot)
    removed = {uid for uid, job in jobs.items() if conditions.is_true(job, "Complete")}
    kept = [] if lost else [old for old in parts.previous.folders if old.uid not in removed]
    listed = _with_attached(kept, snapshot.finetunejobs)
    uids = {folder.uid for folder in listed}
    over = [job for uid, job in jobs.items() if uid in removed or uid not in uids]
    started = [(folder, jobs[folder.uid]) for folder in listed if folder.uid in jobs]
    failed = [job for _, job in started if is_over(job)]
    start: list[Action] = []
    # A quota for Jobs counts those that are over: if it rejects the next one, they must go first.
    if not over and len(failed) == len(started) < MOST_FAILED:
        start = _start(parts, listed) if _may_start(parts, deployment, number) else []
    problems = (_problem(folder, job, parts.now) for folder, job in started)
    return Folders(
        listed=tuple(listed),
        actions=(*start, *deletions(over)),
        problem=next(filter(None, problems), ""),
    )


def prune_jobs(snapshot: EndpointSnapshot) -> dict[str, Object]:
    """Return the endpoint's own Jobs that remove folders, by the UID of the deleted job."""
    return {
        str(naming.label(job, naming.JOB_UID)): job
        for job in snapshot.jobs
        if naming.owned_by(snapshot.endpoint, job)
        and naming.label(job, naming.STAGE) == endpoints.PRUNE
    }


def removes_folders(endpoint: Object, item: Object) -> bool:
    """Report whether an object is a Job that removes a folder, or the policy of its pod."""
    if item["kind"] == "NetworkPolicy":
        name: str = endpoint["metadata"]["name"]
        return bool(item["metadata"]["name"] == endpoints.prune_policy_name(name))
    return naming.label(item, naming.STAGE) == endpoints.PRUNE


def _with_attached(kept: list[JobFolder], attached: Iterable[Object]) -> list[JobFolder]:
    before = {folder.uid for folder in kept}
    new = [
        JobFolder(job=job["metadata"]["name"], uid=job["metadata"]["uid"])
        for job in attached
        if job["metadata"]["uid"] not in before
    ]
    return [*kept, *sorted(new, key=lambda folder: (folder.job, folder.uid))][:MOST_FOLDERS]


def _may_start(parts: Parts, deployment: Object | None, number: WantedNames | None) -> bool:
    """Report whether the pod that serves is ready, and copies nothing for an earlier list.

    It holds the claim: the pod that removes a folder runs on the same node.
    """
    gate = parts.snapshot.gate
    if number is None or gate is None or deployments.answering(deployment) == 0:
        return False
    return (gate.sequence or 0) >= number.sequence


def _start(parts: Parts, listed: Iterable[JobFolder]) -> list[Action]:
    """Return the actions that start the Job of the next folder; none if there is no folder."""
    snapshot, endpoint = parts.snapshot, parts.endpoint
    taken = {job["metadata"]["name"] for job in snapshot.jobs}
    for folder in listed:
        job = prune_job.render(endpoint, parts.target, folder.uid)
        if folder.uid in snapshot.deleted_jobs and job["metadata"]["name"] not in taken:
            return [Apply(object=network.pruning(endpoint)), Create(object=job)]
    return []


def _problem(folder: JobFolder, job: Object, now: datetime) -> str:
    """Return why a folder has not been removed, an empty text if its Job may still complete."""
    name = job["metadata"]["name"]
    cause = (
        f"failed: run kubectl logs job/{name}, remove the cause, and delete the Job to try again"
    )
    if not is_over(job):
        if now - datetime.fromisoformat(created(job)) < LATE:
            return ""
        label = f"{naming.JOB_UID}={folder.uid}"
        cause = f"has not ended: run kubectl describe jobs,pods -l {label}"
    return (
        f"The folder of the deleted FineTuneJob {folder.job} is still on the volume, because Job "
        f"{name} {cause}."
    )
