"""Idle endpoints: when serving pods are stopped for lack of requests, and when they start again.

The verifier of each serving pod reports for how long no client has sent a request. Its clock starts
when the pod has verified its model, so no start is cut short, and a failover of the operator loses
nothing. The pods are stopped only if all pods of the build have reported that lately, and if the
Deployment has as many as it should have: neither during a rollout of its pods, nor during a
rollout of another build (``stable``), nor if their volume is lost, because they could not start
again.

The status records when they were stopped. They start again, and are verified as at every start,
once the annotation ``finetune.dev/wake`` of the job is a later time that has come: so the same
annotation, applied again from Git, changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.objects import deployments, naming
from finetune_operator.objects.conditions import timestamp
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.serving import readiness, state
from finetune_operator.reconcile.serving.allowance import Allowance
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object, Requests

COARSE = timedelta(seconds=delays.REQUESTS)
"""The time of the last request in the status is written again when it differs by so much."""


@dataclass(frozen=True, kw_only=True)
class IdleState:
    """The decision about the requests of the serving build."""

    after_seconds: int | None = None
    """None if its pods keep running without requests."""

    asleep: bool = False
    """Whether its pods were stopped, and nothing has woken it since."""

    due: bool = False
    """Whether its pods may be stopped now."""

    since: str | None = None
    """When its pods were stopped, or are stopped; until the Deployment has replicas again."""

    last_request_at: str | None = None
    note: str = ""
    """Why the pods are never stopped, if they do not count requests."""

    requeue_after: float | None = None

    @property
    def stops(self) -> bool:
        """Whether the build has no pods for lack of requests."""
        return self.asleep or self.due

    def settled(self, *, stopped: bool) -> "IdleState":
        """Return the decision once it is known whether the pods can be stopped now."""
        return replace(self, due=False, since=None) if self.due and not stopped else self

    def released(self) -> "IdleState":
        """Return the decision if the build releases its GPU instead of starting."""
        return replace(self, since=None)


class _Wake(NamedTuple):
    """The annotation of a job."""

    text: str | None
    at: datetime | None
    """None without a valid time."""


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    allowed: Allowance,
    now: datetime,
) -> IdleState:
    """Return the decision about the requests of the serving build.

    serving: its name, or None; allowed: how many pods it may have.
    """
    spec = target.resolved.spec.serving
    if spec.idle is None or serving is None:
        return IdleState()
    after, previous = spec.idle.after_seconds, snapshot.previous
    if spec.replicas == 0:
        return IdleState(after_seconds=after, last_request_at=previous.last_request_at)
    wake = _wake(snapshot.job)
    woken_at = wake.at if wake.at is not None and wake.at <= now else None
    since = previous.idle_since if previous.serving_build == serving else None
    if since is not None:
        child = snapshot.builds.get(serving)
        asleep = woken_at is None or woken_at <= datetime.fromisoformat(since)
        stopped = child is None or child.object["spec"].get("replicas") == 0
        return IdleState(
            after_seconds=after,
            asleep=asleep,
            since=since if asleep or stopped else None,
            last_request_at=previous.last_request_at,
            requeue_after=_until(wake, now),
        )
    reports = [_report(snapshot, pod) for pod in readiness.pods_of(snapshot, serving)]
    quiet = _quiet_seconds(snapshot, target, ledger, serving, allowed, reports)
    due = quiet >= after and (woken_at is None or (now - woken_at).total_seconds() >= after)
    is_new = previous.idle_after_seconds != after
    return IdleState(
        after_seconds=after,
        due=due,
        since=timestamp(now) if due else None,
        last_request_at=_last_request_at(previous.last_request_at, reports, now),
        note=_note(reports),
        # The pods are scraped from the next reconcile on.
        requeue_after=delays.CREATED if is_new else delays.REQUESTS,
    )


def position(job: Object, idle: IdleState) -> Position | None:
    """Return the position of a job whose endpoint has no pods for lack of requests, or None."""
    if not idle.stops:
        return None
    return Position(
        state="done",
        reason=Reason.IDLE,
        message=f"The model has no serving pods because no requests came for "
        f"{idle.after_seconds} s. {how_to_wake(job, idle)}",
    )


def how_to_wake(job: Object, idle: IdleState) -> str:
    """Return the sentences that say how the pods start again."""
    name, namespace, wake = job["metadata"]["name"], job["metadata"]["namespace"], _wake(job)
    text = (
        f"To start them, run: kubectl annotate ftj {name} -n {namespace} --overwrite "
        f"{naming.WAKE}=$(date -u +%FT%TZ)"
    )
    if wake.text is not None and wake.at is None:
        text = (
            f'The annotation {naming.WAKE} has the value "{wake.text}", which is not a time such '
            f"as {idle.since}. {text}"
        )
    return text


def _wake(job: Object) -> _Wake:
    text = naming.own_annotations(job).get(naming.WAKE)
    try:
        at = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        at = None
    return _Wake(text, at if at is not None and at.tzinfo is not None else None)


def _until(wake: _Wake, now: datetime) -> float | None:
    """Return the seconds until the next reconcile of an endpoint that wakes at a later time."""
    if wake.at is None or wake.at <= now:
        return None
    return min(delays.WAKE, (wake.at - now).total_seconds())


def _report(snapshot: IndexedSnapshot, pod: Object) -> Requests | None:
    return snapshot.requests.get(pod["metadata"]["uid"])


def _quiet_seconds(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str,
    allowed: Allowance,
    reports: list[Requests | None],
) -> float:
    """Return for how long no pod has got a request, 0 if a pod of the build may have got one."""
    child, revision = snapshot.builds.get(serving), ledger.revision_of(serving)
    if child is None or child.terminating or not snapshot.can_be_mounted(revision):
        return 0.0
    count = allowed.limited(state.replicas(snapshot, target, revision)).count
    ready = deployments.answering(child.object)
    if not count or {count, ready, len(reports)} != {child.object["spec"].get("replicas")}:
        return 0.0
    return min(report.idle_seconds if report is not None else 0.0 for report in reports)


def _last_request_at(
    before: str | None, reports: list[Requests | None], now: datetime
) -> str | None:
    """Return the time of the last request for the status. before: that of the present status."""
    seconds = [report.idle_seconds for report in reports if report is not None and report.count]
    if not seconds:
        return before
    last = now - timedelta(seconds=min(seconds))
    if before is not None and abs(last - datetime.fromisoformat(before)) < COARSE:
        return before
    return timestamp(last)


def _note(reports: list[Requests | None]) -> str:
    if all(report is None or report.count is not None for report in reports):
        return ""
    return (
        "Its pods do not count requests, so spec.serving.idle has no effect. Either an earlier "
        "version of the operator created the revision, or vLLM has no metrics. Set spec.rerun to a "
        "new value, or remove --disable-log-stats from the chart value serving.args."
    )
