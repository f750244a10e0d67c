"""The planner of FineTuneBudgets: it writes their statement, and nothing else. Pure."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.v1alpha1.budgets.status import Account, ServingAccount, TrainingAccount
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.budgets.amounts import NOTHING, Amount, Bound, hours, money
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.objects import conditions
from finetune_operator.objects.conditions import Status
from finetune_operator.types import UNCONFIRMED, BudgetSnapshot, Confirmation, Object, Plan

VALID, EXHAUSTED, SERVING_EXHAUSTED = "Valid", "Exhausted", "ServingExhausted"
NEAR = Decimal("0.8")
"""Share of a limit from which the budget warns."""


def plan(snapshot: BudgetSnapshot, *, now: datetime) -> Plan:
    """Return the plan of a reconcile of a budget: its statement."""
    balance = snapshot.balance
    if balance is None:
        reason = Reason.USAGE_DISABLED if snapshot.unrecorded else Reason.INVALID_SPEC
        return _unknown(snapshot, reason, snapshot.problem or "", now)
    training = TrainingAccount(
        gpu_hours=_account(
            hours,
            balance.limit.gpu_seconds,
            balance.used.gpu_seconds,
            balance.reserved.gpu_seconds,
        ),
        cost=None
        if balance.currency is None
        else _account(money, balance.limit.cost, balance.used.cost, balance.reserved.cost),
        running=balance.running,
        waiting=snapshot.waiting,
    )
    status, reason, message = _state(balance, selects=snapshot.selects)
    statement = [_condition(snapshot, EXHAUSTED, status, reason, message, now)]
    serving = balance.serving
    if serving is not None:
        statement.append(_condition(snapshot, SERVING_EXHAUSTED, *_serving_state(balance), now))
    valid = f"The budget applies until {balance.period.end:%Y-%m-%d}, then it starts again."
    written = {
        "observedGeneration": snapshot.budget["metadata"]["generation"],
        "periodStart": conditions.timestamp(balance.period.start),
        "periodEnd": conditions.timestamp(balance.period.end),
        "training": training.model_dump(mode="json", by_alias=True, exclude_none=True),
        "namespaces": list(snapshot.namespaces),
        "conditions": [
            _condition(snapshot, VALID, "True", Reason.VALID, valid, now),
            *statement,
        ],
    }
    if serving is not None:
        written["serving"] = _serving(balance, serving, snapshot.serving_gpus)
    return Plan(
        status=written,
        requeue_after=min(delays.BUDGET, max(1.0, balance.seconds_left)),
    )


def confirmation(snapshot: BudgetSnapshot, plan: Plan) -> Confirmation:
    """Return that no plan needs a live read: the write of the status has a precondition."""
    return UNCONFIRMED


def report(
    snapshot: BudgetSnapshot,
    *,
    reason: Reason,
    message: str,
    now: datetime,
    planned: Object | None = None,
    rejected: Object | None = None,
) -> Plan:
    """Return a plan whose condition reports an error. A budget owns nothing to reject."""
    return _unknown(snapshot, reason, message, now)


def _unknown(snapshot: BudgetSnapshot, reason: Reason, message: str, now: datetime) -> Plan:
    """Return the plan for a budget whose balance is unknown; its statement stays."""
    before = snapshot.budget.get("status") or {}
    return Plan(
        status={
            **before,
            "observedGeneration": snapshot.budget["metadata"]["generation"],
            "conditions": [
                _condition(snapshot, VALID, "False", reason, message, now),
                # kubectl shows reason and message of this condition in columns.
                _condition(snapshot, EXHAUSTED, "Unknown", reason, message, now),
            ],
        },
        requeue_after=delays.BUDGET,
    )


def _account(text: Any, limit: Any, used: Any, reserved: Any) -> Account:
    """Return one quantity as text. text: the function that writes an amount of it."""
    return Account(
        limit=None if limit is None else text(limit),
        used=text(used),
        reserved=text(reserved),
        remaining=None if limit is None else text(max(limit - used - reserved, limit - limit)),
    )


def _state(balance: Balance, *, selects: bool) -> tuple[Status, Reason, str]:
    """Return status, reason and message of the condition Exhausted.

    selects: whether the budget selects a namespace.
    """
    parts = [*_parts(balance, balance.limit, balance.used, balance.reserved)]
    text = "; ".join(
        f"{unit}: {write(used)} used and {write(reserved)} reserved of {write(limit)}"
        for unit, write, limit, used, reserved in parts
    )
    message = f"{text or 'The budget limits no amount'}."
    if not selects:
        nothing = (
            "No namespace has the labels in spec.namespaceSelector, so the budget limits nothing: "
            "correct them, or label a namespace. A new label counts within a minute. To list the "
            "labels, run: kubectl get namespaces --show-labels"
        )
        return "False", Reason.NO_NAMESPACES, nothing
    if balance.exhausted:
        end = f"{balance.period.end:%Y-%m-%d}"
        return "True", Reason.EXHAUSTED, f"{message} Jobs wait until {end}."
    if any(used + reserved >= limit * NEAR for _, _, limit, used, reserved in parts):
        return "False", Reason.NEAR_LIMIT, message
    return "False", Reason.WITHIN_BUDGET, message


def _serving(balance: Balance, serving: ServingBalance, gpus: int) -> dict[str, Any]:
    """Return the statement about endpoints. gpus: those that they have."""
    limit, used = serving.limit, serving.used
    account = ServingAccount(
        gpu_hours=_account(hours, limit.gpu_seconds, used.gpu_seconds, 0),
        cost=None
        if balance.currency is None
        else _account(money, limit.cost, used.cost, NOTHING.cost),
        gpus=gpus,
        max_gpus=serving.max_gpus,
    )
    return account.model_dump(mode="json", by_alias=True, exclude_none=True)


def _serving_state(balance: Balance) -> tuple[Status, Reason, str]:
    """Return status, reason and message of the condition ServingExhausted."""
    serving = balance.serving
    assert serving is not None
    parts = [*_parts(balance, serving.limit, serving.used, NOTHING)]
    text = "; ".join(
        f"{unit}: {write(used)} used of {write(limit)}" for unit, write, limit, used, _ in parts
    )
    message = f"{text or 'The budget limits no amount of endpoints'}."
    if serving.exhausted:
        then = "have no pods" if serving.stops else "get no further pods"
        end = f"{balance.period.end:%Y-%m-%d}"
        return "True", Reason.EXHAUSTED, f"{message} Endpoints {then} until {end}."
    if any(used >= limit * NEAR for _, _, limit, used, _ in parts):
        return "False", Reason.NEAR_LIMIT, message
    return "False", Reason.WITHIN_BUDGET, message


def _parts(
    balance: Balance, limit: Bound, used: Amount, reserved: Amount
) -> Iterator[tuple[str, Any, Any, Any, Any]]:
    """Yield unit, how it is written, limit, used and reserved amount of each limited quantity."""
    if limit.gpu_seconds is not None:
        yield "GPU-hours", hours, limit.gpu_seconds, used.gpu_seconds, reserved.gpu_seconds
    if limit.cost is not None:
        yield balance.currency or "", money, limit.cost, used.cost, reserved.cost


def _condition(
    snapshot: BudgetSnapshot,
    type_: str,
    status: Status,
    reason: Reason,
    message: str,
    now: datetime,
) -> dict[str, Any]:
    return conditions.written(
        type_,
        status,
        reason,
        message,
        before=conditions.get(snapshot.budget, type_),
        generation=snapshot.budget["metadata"]["generation"],
        now=now,
    )
