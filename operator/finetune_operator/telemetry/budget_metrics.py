"""Metrics about the FineTuneBudgets in their present periods, as in their status.

Only the leader has them.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from finetune_api.v1alpha1.budgets.usage import Purpose
from finetune_operator.budgets.amounts import Amount, Bound
from finetune_operator.budgets.balances import Balance
from finetune_operator.telemetry.metrics import REGISTRY

BUDGET = "budget"


class BudgetMetrics(Collector):
    """Limit, used and reserved amounts of each budget, and the jobs that wait for it.

    Nothing is reserved for endpoints. A budget that does not limit them has no amounts for them.
    """

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
            "GPU-seconds in the present period of a budget, by purpose and amount.",
            labels=[BUDGET, "purpose", "amount"],
        )
        costs = GaugeMetricFamily(
            "finetune_budget_cost",
            "Cost in the present period of a budget, by purpose, amount and currency.",
            labels=[BUDGET, "purpose", "amount", "currency"],
        )
        jobs = GaugeMetricFamily(
            "finetune_budget_waiting_jobs", "Jobs that wait for a budget.", labels=[BUDGET]
        )
        for name, (balance, waiting) in sorted(self._statements.items()):
            for purpose, amount, value in _amounts(balance):
                if value.gpu_seconds is not None:
                    seconds.add_metric([name, purpose, amount], value.gpu_seconds)
                if value.cost is not None and balance.currency is not None:
                    labels = [name, purpose, amount, balance.currency]
                    costs.add_metric(labels, float(value.cost))
            jobs.add_metric([name], waiting)
        return [seconds, costs, jobs]


def _amounts(balance: Balance) -> Iterator[tuple[Purpose, str, Amount | Bound]]:
    """Yield purpose, name and value of each amount."""
    yield "training", "limit", balance.limit
    yield "training", "used", balance.used
    yield "training", "reserved", balance.reserved
    if balance.serving is not None:
        yield "serving", "limit", balance.serving.limit
        yield "serving", "used", balance.serving.used


BUDGET_METRICS = BudgetMetrics()
REGISTRY.register(BUDGET_METRICS)
