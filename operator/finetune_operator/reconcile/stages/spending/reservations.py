"""What a training may cost: it starts only if that is allowed and, with records of usage, reserved.

The reservation is in the records before the Job exists, so that a training whose end nobody
observed is never charged for more.
"""

from decimal import Decimal

from finetune_api.contracts.cost import affordable, cost, hours, money
from finetune_api.v1alpha1.profile import Price
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import JobStage
from finetune_operator.reconcile.conditions import Position, active
from finetune_operator.revisions.cost import expected, limit_of, price_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.usage.values import ReservationRequest, training_key

LEAST = 60
"""Smallest value of spec.runPolicy.maxGpuSeconds."""


def refusal(target: TargetRevision, ledger: Ledger, stage: JobStage) -> Position | None:
    """Return the position of a job whose training may cost too much, or whose price is unknown."""
    most, price = target.resolved.spec.run_policy.max_cost, price_of(target)
    if most is None or not (stage.reads_sources or stage.gpu):
        return None
    if price is None:
        return Position(
            state="stalled",
            reason=Reason.PRICE_UNKNOWN,
            message=f"spec.runPolicy.maxCost is {most}, but the price of a GPU is unknown. Set "
            "spec.profile to a profile with a price, or remove spec.runPolicy.maxCost.",
        )
    needed = expected(target, ledger.revision(target.revision)) if stage.gpu else None
    if needed is None or Decimal(_money(price, needed.high)) <= Decimal(most):
        return None
    return Position(
        state="failed",
        reason=Reason.TOO_EXPENSIVE,
        message=f"Training is expected to cost {_money(price, needed.low)} to "
        f"{_money(price, needed.high)} {price.currency} ({hours(needed.low)} to "
        f"{hours(needed.high)} GPU-hours at {price.per_gpu_hour} {price.currency}), but "
        f"spec.runPolicy.maxCost is {most}. No GPU was requested. Raise spec.runPolicy.maxCost"
        f"{_shorter(price, most)}, or set spec.profile to a cheaper one.",
    )


def _shorter(price: Price, most: str) -> str:
    """Return the part of a sentence that says how long a training may be that costs an amount."""
    seconds = affordable(price.per_gpu_hour, most) or 0
    return f", set spec.runPolicy.maxGpuSeconds to at most {seconds}" if seconds >= LEAST else ""


def _money(price: Price, seconds: int) -> str:
    return money(cost(price.per_gpu_hour, seconds))


def missing(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger
) -> ReservationRequest | None:
    """Return the reservation that a training still needs, None if it has it or needs none."""
    if snapshot.usage is None:
        return None
    needed = wanted(snapshot, target, ledger)
    present = snapshot.usage.reservations.get(needed.key)
    return None if present is not None and present.cap == needed.cap else needed


def wanted(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> ReservationRequest:
    """Return the reservation of a training, whether it has it or not."""
    cap = limit_of(target)
    if cap is None and (needed := expected(target, ledger.revision(target.revision))) is not None:
        cap = needed.high
    return ReservationRequest(
        key=training_key(snapshot.job["metadata"]["uid"], target.revision),
        namespace=snapshot.job["metadata"]["namespace"],
        job=snapshot.name,
        cap=cap,
        price=price_of(target),
    )


def used_up(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Position | None:
    """Return the position of a job with a budget that has used its estimate, None if it has not.

    An estimate stops no pod, and another attempt would have nothing left to reserve.
    """
    if snapshot.accounts is None or snapshot.usage is None or limit_of(target) is not None:
        return None
    request = wanted(snapshot, target, ledger)
    trained = snapshot.usage.trained.get(request.key, 0)
    if request.cap is None or trained < request.cap:
        return None
    return Position(
        state="stalled",
        reason=Reason.COST_UNKNOWN,
        message=f"Training has used {trained} GPU-seconds, but was estimated at most at "
        f"{request.cap}, so the GPU time that it still needs is unknown. Set "
        "spec.runPolicy.maxGpuSeconds to the most seconds of GPU time that the job may use over "
        "all attempts; training then resumes from its last checkpoint.",
    )


def awaited() -> Position:
    """Return the position of a job whose reservation is not recorded yet."""
    return active(Reason.RESERVING, "Waiting for the reservation of GPU time for the training.")
