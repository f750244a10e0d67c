"""The balance of a budget in the present period, from the usage of its namespaces."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from finetune_api.v1alpha1.budgets.spec import Approval, FineTuneBudgetSpec
from finetune_operator.budgets.amounts import NOTHING, UNLIMITED, Amount, Bound, bound
from finetune_operator.budgets.periods import Period, containing
from finetune_operator.usage.values import NamespaceUsage, Reservation


@dataclass(frozen=True, kw_only=True)
class Balance:
    """A budget in the present period."""

    name: str
    period: Period
    now: datetime
    """By the clock of the API server, which charges the usage to periods."""
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

    @property
    def committed(self) -> Amount:
        """What is used or reserved."""
        return self.used + self.reserved

    @property
    def exhausted(self) -> bool:
        """Whether the used amount has reached a limit."""
        time, cost = self.limit.gpu_seconds, self.limit.cost
        return (time is not None and self.used.gpu_seconds >= time) or (
            cost is not None and self.used.cost >= cost
        )

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
            each
            for usage in usages
            for key, each in usage.reservations.items()
            if key.startswith(prefix)
        ]
        freed = total(rest(each, self.currency) for each in own)
        return replace(self, reserved=self.reserved - freed, running=self.running - len(own))

    def with_job(self, amount: Amount) -> "Balance":
        """Return the balance with the reservation of one more job."""
        return replace(self, reserved=self.reserved + amount, running=self.running + 1)


def balance(
    name: str,
    spec: FineTuneBudgetSpec,
    now: datetime,
    usages: Iterable[NamespaceUsage],
) -> Balance:
    """Return the balance of a budget. usages: of all its namespaces."""
    usages, period = tuple(usages), containing(spec.period, now)
    held = [each for usage in usages for each in usage.reservations.values()]
    return Balance(
        name=name,
        period=period,
        now=now,
        limit=bound(spec.training.gpu_hours, spec.training.cost),
        max_running=spec.training.max_running,
        currency=spec.currency,
        used=total(spent(usage, period, spec.currency) for usage in usages),
        reserved=total(rest(each, spec.currency) for each in held),
        running=len(held),
        approval_above=bound(spec.approval_above.gpu_hours, spec.approval_above.cost),
        approvals=tuple(spec.approvals or ()),
        stops_training=spec.on_exhausted.training == "Checkpoint",
    )


def spent(usage: NamespaceUsage, period: Period, currency: str | None) -> Amount:
    """Return what a namespace has used for training in a period, with its cost in a currency."""
    days = [
        use
        for (day, purpose), use in usage.days.items()
        if purpose == "training" and period.has(day)
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
