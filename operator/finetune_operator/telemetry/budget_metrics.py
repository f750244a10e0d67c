"""Metrics about the FineTuneBudgets in their present periods, as in their status.

Only the leader has them.
"""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_operator.budgets.balances import Balance
from finetune_operator.telemetry.metrics import REGISTRY

BUDGET = "budget"


class BudgetMetrics(Collector):
    """Limit, used and reserved amounts of each budget, and the jobs that wait for it."""

    def __init__(self) -> None:
        self._statements: dict[str, tuple[Balance, int]] = {}

    def observed(self, name: str, balance: Balance | None, waiting: int) -> None:
        """Record the statement of a budget. balance: None if it is unknown."""
        if balance is None:
            self.forget(name)
        else:
            self._statements[name] = balance, waiting

    def forget(self, name: str) -> None:
        """Forget a budget that was deleted, or that another replica reconciles."""
        self._statements.pop(name, None)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, for prometheus-client."""
        seconds = GaugeMetricFamily(
            "finetune_budget_gpu_seconds",
            "GPU-seconds of training in the present period of a budget, by amount.",
            labels=[BUDGET, "amount"],
        )
        costs = GaugeMetricFamily(
            "finetune_budget_cost",
            "Cost of training in the present period of a budget, by amount and currency.",
            labels=[BUDGET, "amount", "currency"],
        )
        jobs = GaugeMetricFamily(
            "finetune_budget_waiting_jobs", "Jobs that wait for a budget.", labels=[BUDGET]
        )
        for name, (balance, waiting) in sorted(self._statements.items()):
            limit, used, reserved = balance.limit, balance.used, balance.reserved
            for amount, value in (
                ("limit", limit.gpu_seconds),
                ("used", used.gpu_seconds),
                ("reserved", reserved.gpu_seconds),
            ):
                if value is not None:
                    seconds.add_metric([name, amount], value)
            for amount, cost in (
                ("limit", limit.cost),
                ("used", used.cost),
                ("reserved", reserved.cost),
            ):
                if cost is not None and balance.currency is not None:
                    costs.add_metric([name, amount, balance.currency], float(cost))
            jobs.add_metric([name], waiting)
        return [seconds, costs, jobs]


BUDGET_METRICS = BudgetMetrics()
REGISTRY.register(BUDGET_METRICS)
