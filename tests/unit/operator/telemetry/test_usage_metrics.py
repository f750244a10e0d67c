"""Metrics about usage: the sums of the present month by namespace."""

from datetime import UTC, date, datetime
from decimal import Decimal

from finetune_api.v1alpha1.budgets.usage import Purpose
from finetune_operator.telemetry.usage_metrics import UsageMetrics
from finetune_operator.usage.values import DayUse, NamespaceUsage, Reservation, Usage


def use(seconds: int, euros: str) -> DayUse:
    return DayUse(gpu_seconds=seconds, costs={"EUR": Decimal(euros)})


def test_the_present_month_is_summed_by_namespace_purpose_and_currency() -> None:
    days: dict[tuple[date, Purpose], DayUse] = {
        (date(2026, 10, 31), "training"): use(999, "9"),
        (date(2026, 11, 1), "training"): use(100, "1.50"),
        (date(2026, 11, 2), "training"): use(50, "0.50"),
        (date(2026, 11, 2), "serving"): DayUse(gpu_seconds=7),
    }
    reservation = Reservation(
        key="train/u/r", namespace="team-a", job="demo", cap=500, price=None, used=100
    )
    metrics = UsageMetrics()
    assert not [sample for family in metrics.collect() for sample in family.samples]
    metrics.source = lambda: Usage(
        now=datetime(2026, 11, 20, tzinfo=UTC),
        namespaces={
            "team-a": NamespaceUsage(days=days, reservations={reservation.key: reservation})
        },
    )
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    assert found == {
        ("finetune_month_gpu_seconds", "team-a", "training"): 150,
        ("finetune_month_gpu_seconds", "team-a", "serving"): 7,
        ("finetune_month_cost", "team-a", "training", "EUR"): 2,
        ("finetune_reserved_gpu_seconds", "team-a"): 400,
    }
