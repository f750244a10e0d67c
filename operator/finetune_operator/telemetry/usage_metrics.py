"""Metrics about the usage of GPUs in the present calendar month (UTC), by namespace.

They repeat what the FineTuneUsages contain, so they survive a restart and a change of the leader.
Only the leader of an operator that records usage has them.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator.telemetry.gpu_seconds import NAMESPACE
from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.usage.values import Usage


class UsageMetrics(Collector):
    """GPU-seconds, cost and reservations of each namespace."""

    def __init__(self) -> None:
        self.source: Callable[[], Usage] = lambda: Usage(now=datetime.now(UTC))

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, for prometheus-client."""
        usage = self.source()
        seconds = GaugeMetricFamily(
            "finetune_month_gpu_seconds",
            "GPU-seconds of a namespace in the present calendar month (UTC), by purpose.",
            labels=[NAMESPACE, "purpose"],
        )
        costs = GaugeMetricFamily(
            "finetune_month_cost",
            "Cost of a namespace in the present calendar month (UTC), by purpose and currency.",
            labels=[NAMESPACE, "purpose", "currency"],
        )
        reserved = GaugeMetricFamily(
            "finetune_reserved_gpu_seconds",
            "GPU-seconds that are reserved for trainings of a namespace and not used yet.",
            labels=[NAMESPACE],
        )
        month = usage.now.year, usage.now.month
        for namespace, present in sorted(usage.namespaces.items()):
            sums: dict[str, float] = {}
            amounts: dict[tuple[str, str], float] = {}
            for (day, purpose), use in present.days.items():
                if (day.year, day.month) != month:
                    continue
                sums[purpose] = sums.get(purpose, 0.0) + use.gpu_seconds
                for currency, cost in use.costs.items():
                    key = purpose, currency
                    amounts[key] = amounts.get(key, 0.0) + float(cost)
            for label, value in sorted(sums.items()):
                seconds.add_metric([namespace, label], value)
            for labels, value in sorted(amounts.items()):
                costs.add_metric([namespace, *labels], value)
            remaining = sum(reservation.remaining for reservation in present.reservations.values())
            reserved.add_metric([namespace], remaining)
        return [seconds, costs, reserved]


USAGE_METRICS = UsageMetrics()
REGISTRY.register(USAGE_METRICS)
