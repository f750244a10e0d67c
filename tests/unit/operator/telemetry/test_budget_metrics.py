"""Metrics about budgets: the amounts of their statements."""

from datetime import UTC, datetime
from decimal import Decimal

from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance, ServingBalance
from finetune_operator.budgets.periods import containing
from finetune_operator.telemetry.budget_metrics import BudgetMetrics


def found(metrics: BudgetMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def test_the_amounts_of_a_budget_until_it_is_deleted() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    balance = Balance(
        name="team",
        period=containing("Month", now),
        now=now,
        limit=Bound(gpu_seconds=3600, cost=Decimal("7.50")),
        currency="EUR",
        used=Amount(gpu_seconds=60, cost=Decimal("0.25")),
        serving=ServingBalance(limit=Bound(cost=Decimal(9)), used=Amount(gpu_seconds=30)),
    )
    metrics = BudgetMetrics()
    metrics.observed("team", balance, 2)
    assert found(metrics) == {
        ("finetune_budget_gpu_seconds", "team", "training", "limit"): 3600,
        ("finetune_budget_gpu_seconds", "team", "training", "used"): 60,
        ("finetune_budget_gpu_seconds", "team", "training", "reserved"): 0,
        ("finetune_budget_gpu_seconds", "team", "serving", "used"): 30,
        ("finetune_budget_cost", "team", "training", "limit", "EUR"): 7.5,
        ("finetune_budget_cost", "team", "training", "used", "EUR"): 0.25,
        ("finetune_budget_cost", "team", "training", "reserved", "EUR"): 0,
        ("finetune_budget_cost", "team", "serving", "limit", "EUR"): 9,
        ("finetune_budget_cost", "team", "serving", "used", "EUR"): 0,
        ("finetune_budget_waiting_jobs", "team"): 2,
    }
    metrics.observed("team", None, 0)
    assert found(metrics) == {}
    metrics.observed("team", balance, 2)
    metrics.forget("team")
    assert found(metrics) == {}
