"""The balance of a budget in the present period, from the usage of its namespaces."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from finetune_api.v1alpha1.budgets.spec import Approval, FineTuneBudgetSpec
from finetune_api.v1alpha1.budgets.usage import Purpose
from finetune_operator.budgets.amounts import NOTHING, UNLIMITED, Amount, Bound, bound
from finetune_operator.budgets.periods import Period, containing
from finetune_operator.usage.values import NamespaceUsage, Reservation


@dataclass(frozen=True, kw_only=True)
class Balance:
    """A budget in the present period."""

    name: str
    period: Period
    now: datetime = field(compare=False)
    """By the clock of the API server, which charges the usage to periods. It alone is no news: a
    snapshot that a live read confirms needs no other plan."""
    limit: Bound
    max_running: int | None = None
    currency: str | None = None
    used: Amount = NOTHING
    reserved: Amount = NOTHING
    running: int = 0
    approval_above: Bound = UNLIMITED
    approvals: tuple[Approval, ...] = ()
    stops_training: bool = False
    """Whether running jobs are stopped once the budget is exhausted."""
    serving: "ServingBalance | None" = None
    """None if the budget does not limit endpoints."""

    @property
    def committed(self) -> Amount:
        """What is used or reserved."""
        return self.used + self.reserved

    @property
    def exhausted(self) -> bool:
        """Whether the used amount has reached a limit."""
        return self.limit.reached_by(self.used)

    @property
    def seconds_left(self) -> float:
        """Seconds until the period ends."""
        return (self.period.end - self.now).total_seconds()

    def fits(self, amount: Amount) -> bool:
        """Report whether one more job with an amount fits."""
        slot = self.max_running is None or self.running < self.max_running
        return slot and self.limit.holds(self.committed + amount)

    def without(self, usages: Iterable[NamespaceUsage], prefix: str) -> "Balance":
        """Return the balance without the reservations whose keys have a prefix.

        usages: those from which the balance was computed.
        """
        own = [
            reservation
            for usage in usages
            for key, reservation in usage.reservations.items()
            if key.startswith(prefix)
        ]
        freed = total(rest(reservation, self.currency) for reservation in own)
        return replace(self, reserved=self.reserved - freed, running=self.running - len(own))

    def with_job(self, amount: Amount) -> "Balance":
        """Return the balance with the reservation of one more job."""
        return replace(self, reserved=self.reserved + amount, running=self.running + 1)


@dataclass(frozen=True, kw_only=True)
class ServingBalance:
    """The endpoints of a budget in the present period. Nothing is reserved for them."""

    limit: Bound
    max_gpus: int | None = None
    used: Amount = NOTHING
    stops: bool = False
    """Whether the pods of endpoints are stopped once the budget is exhausted."""

    @property
    def exhausted(self) -> bool:
        """Whether the used amount has reached a limit."""
        return self.limit.reached_by(self.used)


def balance(
    name: str,
    spec: FineTuneBudgetSpec,
    now: datetime,
    usages: Iterable[NamespaceUsage],
) -> Balance:
    """Return the balance of a budget. usages: of all its namespaces."""
    usages, period = tuple(usages), containing(spec.period, now)
    held = [reservation for usage in usages for reservation in usage.reservations.values()]
    return Balance(
        name=name,
        period=period,
        now=now,
        limit=bound(spec.training.gpu_hours, spec.training.cost),
        max_running=spec.training.max_running,
        currency=spec.currency,
        used=total(spent(usage, period, spec.currency, "training") for usage in usages),
        reserved=total(rest(reservation, spec.currency) for reservation in held),
        running=len(held),
        approval_above=bound(spec.approval_above.gpu_hours, spec.approval_above.cost),
        approvals=tuple(spec.approvals or ()),
        stops_training=spec.on_exhausted.training == "Checkpoint",
        serving=_serving(spec, period, usages),
    )


def _serving(
    spec: FineTuneBudgetSpec, period: Period, usages: Iterable[NamespaceUsage]
) -> ServingBalance | None:
    limits = spec.serving
    if not limits_serving(spec):
        return None
    return ServingBalance(
        limit=bound(limits.gpu_hours, limits.cost),
        max_gpus=limits.max_gpus,
        used=total(spent(usage, period, spec.currency, "serving") for usage in usages),
        stops=spec.on_exhausted.serving == "ScaleToZero",
    )


def limits_serving(spec: FineTuneBudgetSpec) -> bool:
    """Report whether a budget limits endpoints."""
    limits = (spec.serving.gpu_hours, spec.serving.cost, spec.serving.max_gpus)
    return any(limit is not None for limit in limits)


def spent(usage: NamespaceUsage, period: Period, currency: str | None, purpose: Purpose) -> Amount:
    """Return what a namespace has used for a purpose in a period, with its cost in a currency."""
    days = [
        use
        for (day, used_for), use in usage.days.items()
        if used_for == purpose and period.has(day)
    ]
    costs = (use.costs.get(currency) for use in days) if currency is not None else ()
    return Amount(
        gpu_seconds=sum(use.gpu_seconds for use in days),
        cost=sum((cost for cost in costs if cost is not None), Decimal()),
    )


def rest(reservation: Reservation, currency: str | None) -> Amount:
    """Return what is left of a reservation, with its cost in a currency."""
    price, cost = reservation.price, reservation.remaining_cost
    priced = price is not None and price.currency == currency and cost is not None
    return Amount(gpu_seconds=reservation.remaining, cost=cost if priced and cost else Decimal())


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum of amounts."""
    return sum(amounts, NOTHING)
