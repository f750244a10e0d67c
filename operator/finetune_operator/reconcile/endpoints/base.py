"""The attempts to prepare the base of an endpoint. Pure.

The base is prepared once for each claim. A failed attempt is repeated after a change of something
that its pod was given; the status has a hash of it. Only one attempt at a time writes to a claim:
the Job of another one is deleted first, and the next claim is created when its pods have ended.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune_api.v1alpha1.endpoints.status import (
    BaseAttempt,
    FineTuneEndpointStatus,
    PreparedBase,
)
from finetune_operator.actions import Action, Create, Delete
from finetune_operator.manifests.endpoints import base_job
from finetune_operator.objects import endpoints, naming
from finetune_operator.objects.digest import sha256
from finetune_operator.objects.jobs import pods_of
from finetune_operator.reconcile.stages import outcome
from finetune_operator.revisions.sharing.settings import TargetEndpoint
from finetune_operator.types import EndpointSnapshot, Object

State = Literal["prepared", "running", "failed"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The state of the base, and what the next reconcile must know about it."""

    state: State
    attempt: BaseAttempt
    prepared: PreparedBase | None = None
    volume: str | None = None
    """UID of the claim that has the base, or on which it is prepared."""
    lost: bool = False
    """Whether the claim with the base was deleted or replaced."""
    ending: bool = False
    """Whether the pod of another attempt, which may write to the claim, has not ended."""
    actions: tuple[Action, ...] = ()


def base(
    snapshot: EndpointSnapshot,
    target: TargetEndpoint,
    previous: FineTuneEndpointStatus,
    claim: Object | None,
) -> Base:
    """Return the state of the base, and the Job to create. claim: the endpoint's own."""
    uid = None if claim is None else str(claim["metadata"]["uid"])
    before, key = previous.base_attempt, retry_key(snapshot.endpoint, target)
    lost = previous.volume is not None and uid != previous.volume
    if previous.base is not None and before is not None and not lost:
        return Base(state="prepared", attempt=before, prepared=previous.base, volume=uid)
    follows = before is not None and before.outcome == "Running" and not lost
    if rest := unfinished(snapshot, but=before.attempt if before and follows else None):
        return Base(
            state="running",
            attempt=before or _attempt(_next(snapshot, before), key),
            volume=previous.volume if lost else uid,
            lost=lost,
            ending=True,
            actions=deletions(rest),
        )
    if before is None or lost or _repeats(before, key):
        return _start(snapshot, target, _next(snapshot, before), key, lost=lost, volume=uid)
    if before.outcome == "Failed":
        return Base(state="failed", attempt=before, volume=uid)
    return _followed(snapshot, target, before, key, volume=uid)


def retry_key(endpoint: Object, target: TargetEndpoint) -> str:
    """Return the hash of what the pod of an attempt is given."""
    return sha256(base_job.render(endpoint, target, 0)["spec"]["template"]["spec"])


def job_of(snapshot: EndpointSnapshot, attempt: int) -> Object | None:
    """Return the endpoint's own Job of an attempt, or None."""
    name = endpoints.base_job_name(snapshot.endpoint["metadata"]["name"], attempt)
    return next(
        (
            job
            for job in snapshot.jobs
            if job["metadata"]["name"] == name and naming.owned_by(snapshot.endpoint, job)
        ),
        None,
    )


def unfinished(snapshot: EndpointSnapshot, *, but: int | None = None) -> list[Object]:
    """Return the endpoint's own Jobs of attempts that have not ended. but: an attempt to omit."""
    return [
        job
        for job in snapshot.jobs
        if naming.owned_by(snapshot.endpoint, job)
        and (number := naming.label(job, naming.ATTEMPT)) is not None
        and number != str(but)
        and outcome.of(job, pods_of(job, snapshot.pods)) is None
    ]


def deletions(jobs: Iterable[Object]) -> tuple[Action, ...]:
    """Return the deletions of Jobs that are not being deleted yet."""
    return tuple(Delete(object=job) for job in jobs if "deletionTimestamp" not in job["metadata"])


def _repeats(before: BaseAttempt, key: str) -> bool:
    return before.outcome == "Failed" and before.retry_key != key


def _next(snapshot: EndpointSnapshot, before: BaseAttempt | None) -> int:
    """Return the number of the next attempt: no Job that exists has it."""
    made = [
        int(number)
        for job in snapshot.jobs
        if (number := naming.label(job, naming.ATTEMPT) or "").isdecimal()
    ]
    return max([0 if before is None else before.attempt, *made]) + 1


def _attempt(number: int, key: str) -> BaseAttempt:
    return BaseAttempt(attempt=number, outcome="Running", retry_key=key)


def _start(
    snapshot: EndpointSnapshot,
    target: TargetEndpoint,
    number: int,
    key: str,
    *,
    lost: bool = False,
    volume: str | None,
) -> Base:
    job = base_job.render(snapshot.endpoint, target, number)
    return Base(
        state="running",
        attempt=_attempt(number, key),
        volume=volume,
        lost=lost,
        actions=(Create(object=job),),
    )


def _followed(
    snapshot: EndpointSnapshot,
    target: TargetEndpoint,
    before: BaseAttempt,
    key: str,
    *,
    volume: str | None,
) -> Base:
    """Return the state of an attempt that was under way."""
    job = job_of(snapshot, before.attempt)
    if job is None:
        # Its creation failed after the status was written, or a client deleted it: the next
        # attempt keeps what the volume has.
        started = _start(snapshot, target, before.attempt, key, volume=volume)
        return replace(started, attempt=before)
    end = outcome.of(job, pods_of(job, snapshot.pods))
    if end is None:
        return Base(state="running", attempt=before, volume=volume)
    if end.kind == "Completed" and end.result is not None and volume is not None:
        artifacts = end.result.artifacts
        assert isinstance(artifacts, PreparedBase)
        done = before.model_copy(update={"outcome": "Completed"})
        return Base(state="prepared", attempt=done, prepared=artifacts, volume=volume)
    failed: dict[str, Any] = {"outcome": "Failed", "reason": end.reason, "message": end.message}
    return Base(state="failed", attempt=before.model_copy(update=failed), volume=volume)
