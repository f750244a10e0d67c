"""The budgets of a job: whether its training may start, and whether it must stop.

A job that does not fit has no train Job, so it holds no GPU and no place in a queue of Kueue. It is
judged again at each reconcile: when a budget has more room, and when the period ends.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.job import BudgetRequest
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.budgets.admission import Request, decide
from finetune_operator.budgets.balances import Balance
from finetune_operator.objects.conditions import timestamp
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.stages.cancellation import stop
from finetune_operator.reconcile.stages.spending import reservations
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.usage.values import ReservationRequest

STATES = {
    Reason.OVER_BUDGET: "suspended",
    Reason.APPROVAL_NEEDED: "suspended",
    Reason.EXCEEDS_BUDGET: "failed",
}
"""State of a job by the reason for which it is not admitted; all others are "stalled". Of a job
that is suspended, the stable build reclaims the GPU that it has released."""


def held(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Position | None:
    """Return the position of a job that may not start to train, None if it may."""
    accounts, usage = snapshot.accounts, snapshot.usage
    if accounts is None:
        return None
    if accounts.problem is not None or usage is None:
        return Position(
            state="stalled",
            reason=Reason.BUDGET_UNAVAILABLE,
            message=accounts.problem or "",
            requeue_after=delays.BUDGET,
        )
    if (exhausted := accounts.exhausted) is not None:
        return _exhausted(exhausted)
    if reservations.missing(snapshot, target, ledger) is None:
        return None
    wish = request(snapshot, target, ledger)
    verdict = decide(wish, accounts.balances, accounts.waiting)
    if verdict.reason is None:
        return None
    state: Any = STATES.get(verdict.reason, "stalled")
    return Position(
        state=state,
        reason=verdict.reason,
        message=verdict.message,
        requeue_after=None if state == "failed" else _wait(accounts.balances.values()),
    )


def stopped(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    attempt: Attempt,
) -> Decision | None:
    """Return the decision to stop a training whose budget is exhausted, None if it continues."""
    if snapshot.accounts is None or target.resolved.spec.suspend:
        return None
    exhausted = snapshot.accounts.exhausted
    job = snapshot.job_of(target.revision, attempt)
    if exhausted is None or job is None or job.ended or job.terminating:
        return None
    decision = stop(ledger, job, reason=Reason.OVER_BUDGET)
    position = _exhausted(exhausted)
    return decision.then(Decision(ledger=decision.ledger, position=position))


def unreserved(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger
) -> ReservationRequest | None:
    """Return the reservation of a training under way that has none, as the records are younger.

    The present Job keeps the limit with which it was created, so an edit of the limit changes the
    reservation when the next attempt starts, if the budgets then admit it.
    """
    needed, accounts = reservations.missing(snapshot, target, ledger), snapshot.accounts
    if needed is None or snapshot.usage is None or needed.key in snapshot.usage.reservations:
        return None
    balances = {} if accounts is None else accounts.balances
    return needed if decide(request(snapshot, target, ledger), balances, ()).admitted else None


def request(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Request:
    """Return what a job asks of its budgets: what its reservation has not used yet."""
    reservation = reservations.wanted(snapshot, target, ledger)
    accounts, metadata = snapshot.accounts, snapshot.job["metadata"]
    trained = 0 if snapshot.usage is None else snapshot.usage.trained.get(reservation.key, 0)
    digest = target.resolved.digest
    since = snapshot.previous.budget.get("waitingSince")
    waits = since is not None and snapshot.previous.budget.get("revision") == digest
    return Request(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        revision=digest,
        # An estimate may be too low. Even then, an exhausted budget has no room for the job.
        gpu_seconds=None if reservation.cap is None else max(1, reservation.cap - trained),
        trained=trained,
        price=reservation.price,
        priority=0 if accounts is None else accounts.priority,
        created=str(metadata.get("creationTimestamp", "")),
        waiting_since=datetime.fromisoformat(str(since)) if waits else None,
        budgets=frozenset() if accounts is None else accounts.own,
    )


def waiting(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, now: datetime
) -> dict[str, Any]:
    """Return ``status.budget`` of a job that waits: the other jobs see from it what it needs."""
    wish = request(snapshot, target, ledger)
    return BudgetRequest(
        waiting_since=timestamp(wish.waiting_since or now),
        revision=wish.revision,
        gpu_seconds=wish.gpu_seconds,
        trained_gpu_seconds=wish.trained or None,
        per_gpu_hour=None if wish.price is None else wish.price.per_gpu_hour,
        currency=None if wish.price is None else wish.price.currency,
        priority=wish.priority or None,
    ).model_dump(mode="json", by_alias=True, exclude_none=True)


def _exhausted(balance: Balance) -> Position:
    return Position(
        state="suspended",
        reason=Reason.OVER_BUDGET,
        message=f"{BUDGET_KIND} {balance.name} is exhausted, and stops training until "
        f"{balance.period.end:%Y-%m-%d %H:%M} UTC. The job then resumes from its last checkpoint.",
        requeue_after=_wait((balance,)),
    )


def _wait(balances: Iterable[Balance]) -> float:
    """Return the seconds until the next reconcile: at the latest when a period ends."""
    return min(delays.WAITING, *(max(1.0, balance.seconds_left) for balance in balances))
