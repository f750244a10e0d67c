"""``status.cost``: GPU time and cost of training, expected after ``prepare`` and used so far.

``status.budget`` has what a training needs that waits for a budget, ``status.queuePosition`` its
place in a queue.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.contracts.cost import cost, hours, money
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.progress import CostStatus, Range
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import queues
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.stages.spending import budgets as spending
from finetune_operator.revisions.cost import expected, price_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.usage.values import training_key


def costs(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    position: Position,
    now: datetime,
) -> dict[str, Any]:
    """Return ``status.cost``, and what the training waits for: a budget or a queue."""
    status: dict[str, Any] = {}
    if (expected_cost := cost_status(snapshot, target, ledger)) is not None:
        status["cost"] = expected_cost
    if position.reason == Reason.OVER_BUDGET:
        status["budget"] = spending.waiting(snapshot, target, ledger, now)
    if (place := queues.position_of(snapshot, position)) is not None:
        status["queuePosition"] = place
    return status


def cost_status(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger
) -> dict[str, Any] | None:
    """Return GPU time and cost of a revision; None if its price is unknown and no usage recorded.

    Without records of usage, the GPU time is that which the trainer reports.
    """
    price, record = price_of(target), ledger.revision(target.revision)
    if price is None and snapshot.usage is None:
        return None
    charged: Mapping[str, int] = {} if snapshot.usage is None else snapshot.usage.trained
    key = training_key(snapshot.job["metadata"]["uid"], target.revision)
    used, range_ = charged.get(key) or record.gpu_seconds, expected(target, record)
    amount: str | None = None
    bounds: Range | None = None
    if price is not None:
        if used is not None:
            amount = money(cost(price.per_gpu_hour, used))
        if range_ is not None:
            low, high = (money(cost(price.per_gpu_hour, seconds)) for seconds in range_)
            bounds = Range(low=low, high=high)
    status = CostStatus(
        price_per_gpu_hour=None if price is None else price.per_gpu_hour,
        currency=None if price is None else price.currency,
        expected_gpu_hours=None
        if range_ is None
        else Range(low=hours(range_.low), high=hours(range_.high)),
        expected_cost=bounds,
        gpu_hours=None if used is None else hours(used),
        cost=amount,
        summary=None if price is None else _summary(amount, bounds, price.currency),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _summary(amount: str | None, bounds: Range | None, currency: str) -> str | None:
    range_ = None if bounds is None else f"{bounds.low}-{bounds.high}"
    if amount is None:
        return None if range_ is None else f"{range_} {currency}"
    return f"{amount} {currency}" + ("" if range_ is None else f" ({range_})")
