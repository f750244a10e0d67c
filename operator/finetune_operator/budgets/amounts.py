"""Amounts of a budget: GPU time and money, and how people read them."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

SECONDS_PER_HOUR = 3600
CENTS = Decimal("0.01")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """GPU time, and its cost in the currency of a budget."""

    gpu_seconds: int = 0
    cost: Decimal = Decimal()

    def __add__(self, other: "Amount") -> "Amount":
        """Return the sum."""
        return Amount(gpu_seconds=self.gpu_seconds + other.gpu_seconds, cost=self.cost + other.cost)

    def __sub__(self, other: "Amount") -> "Amount":
        """Return the difference."""
        return Amount(gpu_seconds=self.gpu_seconds - other.gpu_seconds, cost=self.cost - other.cost)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The most GPU time and money; None where there is no limit."""

    gpu_seconds: int | None = None
    cost: Decimal | None = None

    def holds(self, amount: Amount) -> bool:
        """Report whether an amount is within the bound."""
        within_time = self.gpu_seconds is None or amount.gpu_seconds <= self.gpu_seconds
        return within_time and (self.cost is None or amount.cost <= self.cost)

    def reached_by(self, amount: Amount) -> bool:
        """Report whether an amount has reached the bound, so that nothing more fits."""
        return (self.gpu_seconds is not None and amount.gpu_seconds >= self.gpu_seconds) or (
            self.cost is not None and amount.cost >= self.cost
        )


NOTHING = Amount()
UNLIMITED = Bound()


def bound(gpu_hours: float | None, cost: str | None) -> Bound:
    """Return the bound that a spec writes in hours and as text."""
    seconds = None if gpu_hours is None else int(Decimal(str(gpu_hours)) * SECONDS_PER_HOUR)
    return Bound(gpu_seconds=seconds, cost=None if cost is None else Decimal(cost))


def hours(gpu_seconds: int) -> str:
    """Return GPU time in hours, such as 12.5."""
    rounded = (Decimal(gpu_seconds) / SECONDS_PER_HOUR).quantize(CENTS, ROUND_HALF_UP)
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".")


def money(cost: Decimal) -> str:
    """Return an amount of money, such as 31.20."""
    return f"{cost.quantize(CENTS, ROUND_HALF_UP):f}"
