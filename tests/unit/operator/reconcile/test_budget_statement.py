"""The status of a FineTuneBudget reads like a statement, and warns before the budget is used up."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from finetune_api.v1alpha1.budgets.status import FineTuneBudgetStatus
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.budgets.periods import containing
from finetune_operator.reconcile import budgets
from finetune_operator.types import BudgetSnapshot, Plan

NOW = datetime(2026, 11, 12, 8, tzinfo=UTC)
HOUR = 3600
Thing = dict[str, Any]


def balance(used: float = 0, reserved: float = 0, **changes: Any) -> Balance:
    values: Thing = {
        "now": NOW,
        "limit": Bound(gpu_seconds=200 * HOUR, cost=Decimal(500)),
        "currency": "EUR",
        "running": 2,
        "used": Amount(gpu_seconds=int(used * HOUR), cost=Decimal(2) * Decimal(used)),
        "reserved": Amount(gpu_seconds=int(reserved * HOUR), cost=Decimal(2) * Decimal(reserved)),
        **changes,
    }
    return Balance(name="team", period=containing("Month", NOW), **values)


def body(status: Thing | None = None) -> Thing:
    return {"metadata": {"name": "team", "generation": 3}, "status": status or {}}


def plan(found: Balance, status: Thing | None = None, now: datetime = NOW) -> Plan:
    snapshot = BudgetSnapshot(budget=body(status), balance=found, namespaces=("a", "b"), waiting=1)
    return budgets.plan(snapshot, now=now)


def exhausted(found: Plan) -> Thing:
    return next(dict(each) for each in found.status["conditions"] if each["type"] == "Exhausted")


def test_the_statement() -> None:
    found = plan(balance(12.5, 4))
    assert found.status["training"] == {
        "gpuHours": {"limit": "200", "used": "12.5", "reserved": "4", "remaining": "183.5"},
        "cost": {"limit": "500.00", "used": "25.00", "reserved": "8.00", "remaining": "467.00"},
        "running": 2,
        "waiting": 1,
    }
    assert found.status["periodEnd"] == "2026-12-01T00:00:00Z"
    assert found.status["namespaces"] == ["a", "b"]
    assert found.status["observedGeneration"] == 3
    FineTuneBudgetStatus.model_validate(found.status)
    assert found.actions == ()


def test_what_is_not_limited_has_no_rest() -> None:
    found = plan(balance(limit=Bound(), currency=None))
    assert found.status["training"]["gpuHours"] == {"used": "0", "reserved": "0"}
    assert "cost" not in found.status["training"]


@pytest.mark.parametrize(
    ("used", "reserved", "reason", "status"),
    [
        (100, 59, Reason.WITHIN_BUDGET, "False"),
        (100, 60, Reason.NEAR_LIMIT, "False"),
        (0, 200, Reason.NEAR_LIMIT, "False"),
        (200, 0, Reason.EXHAUSTED, "True"),
        (230, 0, Reason.EXHAUSTED, "True"),
    ],
)
def test_the_warning(used: float, reserved: float, reason: Reason, status: str) -> None:
    found = exhausted(plan(balance(used, reserved)))
    assert (found["reason"], found["status"]) == (reason, status)
    assert f"GPU-hours: {used} used and {reserved} reserved of 200" in found["message"]


def test_a_budget_without_namespaces_says_so() -> None:
    snapshot = BudgetSnapshot(budget=body(), balance=balance(230), selects=False)
    found = exhausted(budgets.plan(snapshot, now=NOW))
    assert (found["reason"], found["status"]) == ("NoNamespaces", "False")
    assert "spec.namespaceSelector" in found["message"]


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    first = plan(balance(1))
    later = NOW + timedelta(hours=1)
    assert exhausted(plan(balance(170), dict(first.status), later)) == {
        **exhausted(first),
        "reason": "NearLimit",
        "message": "GPU-hours: 170 used and 0 reserved of 200; EUR: 340.00 used and 0.00 reserved "
        "of 500.00.",
    }
    after = exhausted(plan(balance(200), dict(first.status), later))
    assert after["lastTransitionTime"] == "2026-11-12T09:00:00Z"
    assert "Jobs wait until 2026-12-01" in after["message"]


def test_the_next_reconcile_is_not_after_the_end_of_the_period() -> None:
    assert plan(balance()).requeue_after == 60
    end = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)
    assert plan(balance(now=end)).requeue_after == 30


def test_the_end_of_the_period_is_that_of_the_clock_that_charges_usage() -> None:
    """The clock of the operator is ahead: the period has not ended, so nothing is polled."""
    end = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)
    assert plan(balance(now=end), now=end + timedelta(minutes=1)).requeue_after == 30


def test_a_budget_without_usage_is_not_valid() -> None:
    snapshot = BudgetSnapshot(budget=body(), problem="set usage.enabled", unrecorded=True)
    valid, shown = budgets.plan(snapshot, now=NOW).status["conditions"]
    assert (valid["type"], valid["status"], valid["reason"]) == ("Valid", "False", "UsageDisabled")
    # The columns STATE and MESSAGE of kubectl.
    assert (shown["type"], shown["status"], shown["reason"]) == (
        "Exhausted",
        "Unknown",
        "UsageDisabled",
    )
    assert shown["message"] == "set usage.enabled"


def test_a_rejected_write_is_reported_and_the_statement_stays() -> None:
    written = dict(plan(balance(12.5)).status)
    snapshot = BudgetSnapshot(budget=body(written), balance=balance(12.5))
    found = budgets.report(snapshot, reason=Reason.ERROR, message="no", now=NOW).status
    assert found["training"] == written["training"]
    assert {each["type"]: each["reason"] for each in found["conditions"]} == {
        "Valid": "Error",
        "Exhausted": "Error",
    }


@pytest.mark.parametrize(
    ("used", "stops", "reason", "message"),
    [
        (10, False, "WithinBudget", "GPU-hours: 10 used of 100; EUR: 20.00 used of 500.00."),
        (80, False, "NearLimit", "GPU-hours: 80 used of 100; EUR: 160.00 used of 500.00."),
        (
            100,
            False,
            "Exhausted",
            "GPU-hours: 100 used of 100; EUR: 200.00 used of 500.00. Endpoints get no further pods "
            "until 2026-12-01.",
        ),
        (
            250,
            True,
            "Exhausted",
            "GPU-hours: 250 used of 100; EUR: 500.00 used of 500.00. Endpoints have no pods until "
            "2026-12-01.",
        ),
    ],
)
def test_the_statement_about_endpoints(used: int, stops: bool, reason: str, message: str) -> None:
    amount = Amount(gpu_seconds=used * HOUR, cost=Decimal(2) * used)
    limit = Bound(gpu_seconds=100 * HOUR, cost=Decimal(500))
    serving = ServingBalance(limit=limit, max_gpus=4, used=amount, stops=stops)
    snapshot = BudgetSnapshot(budget=body(), balance=balance(serving=serving), serving_gpus=3)
    found = budgets.plan(snapshot, now=NOW)
    hours = found.status["serving"]["gpuHours"]
    assert hours == {
        "limit": "100",
        "used": str(used),
        "reserved": "0",
        "remaining": str(max(0, 100 - used)),
    }
    assert (found.status["serving"]["gpus"], found.status["serving"]["maxGpus"]) == (3, 4)
    (condition,) = (
        each for each in found.status["conditions"] if each["type"] == "ServingExhausted"
    )
    assert (condition["reason"], condition["message"]) == (reason, message)
    assert (condition["status"] == "True") is (reason == "Exhausted")
    FineTuneBudgetStatus.model_validate(found.status)


def test_a_budget_without_limits_of_endpoints_says_nothing_about_them() -> None:
    found = plan(balance())
    assert "serving" not in found.status
    assert [each["type"] for each in found.status["conditions"]] == ["Valid", "Exhausted"]
