"""FineTuneBudgets and the requests of waiting jobs, parsed from objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.base import Values
from finetune_api.layering import without_nulls
from finetune_api.v1alpha1.budgets.spec import BUDGET_KIND, FineTuneBudgetSpec, NamespaceSelector
from finetune_api.v1alpha1.profile import Price
from finetune_operator.budgets.admission import Request
from finetune_operator.budgets.selection import selects


@dataclass(frozen=True, kw_only=True)
class ParsedBudget:
    """A budget, or why it cannot be read. Then the jobs that it selects wait."""

    name: str
    spec: FineTuneBudgetSpec | None
    selector: NamespaceSelector
    problem: str | None = None
    counted: frozenset[str] = frozenset()
    """Namespaces that its status names, which may be deleted by now."""
    period_start: str | None = None
    """Start of the period of its status."""

    def selects(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Report whether the budget selects a namespace. labels: None if it does not exist."""
        return selects(self.selector, namespace, labels)


def parse(name: str, spec: Values, status: Values) -> ParsedBudget:
    """Return a budget. The API server has validated it, unless its CRD has another version."""
    counted = frozenset(status.get("namespaces") or ())
    start = status.get("periodStart")
    try:
        parsed = FineTuneBudgetSpec.model_validate(without_nulls(spec), by_name=False)
    except ValidationError as error:
        finding = error.errors()[0]
        place = ".".join(str(step) for step in ("spec", *finding["loc"]))
        problem = (
            f"{BUDGET_KIND} {name} cannot be read: {place}: {finding['msg']}. Ask your cluster "
            "administrator to correct the field, or to upgrade the operator."
        )
        return ParsedBudget(
            name=name,
            spec=None,
            selector=_selector(spec),
            problem=problem,
            counted=counted,
            period_start=start,
        )
    return ParsedBudget(
        name=name,
        spec=parsed,
        selector=parsed.namespace_selector,
        counted=counted,
        period_start=start,
    )


def waiting(
    metadata: Mapping[str, Any], budget: Mapping[str, Any], budgets: frozenset[str]
) -> Request:
    """Return the request of a job that waits. budget: ``status.budget`` of the job."""
    price = None
    if "perGpuHour" in budget and "currency" in budget:
        price = Price(per_gpu_hour=budget["perGpuHour"], currency=budget["currency"])
    return Request(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        revision=str(budget.get("revision")),
        gpu_seconds=budget.get("gpuSeconds"),
        trained=int(budget.get("trainedGpuSeconds") or 0),
        price=price,
        priority=int(budget.get("priority") or 0),
        created=str(metadata.get("creationTimestamp", "")),
        waiting_since=datetime.fromisoformat(str(budget["waitingSince"])),
        budgets=budgets,
    )


def _selector(spec: Values) -> NamespaceSelector:
    """Return the selector of a budget that cannot be read; at worst it selects every namespace."""
    try:
        return NamespaceSelector.model_validate(spec.get("namespaceSelector") or {}, by_name=False)
    except ValidationError:
        return NamespaceSelector()
