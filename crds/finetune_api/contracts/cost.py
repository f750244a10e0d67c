"""What GPU time costs, and how long a training may take by its estimate.

Operator and command-line tool have the same numbers from here.
"""

from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

SECONDS_PER_HOUR = 3600
UNCERTAINTY = 2
"""The duration of training has not been compared with measurements: it may be half of the estimate,
or twice as much."""
OVERHEAD = 900
"""Seconds for which a train pod may hold its GPU besides the steps: until its image is pulled and
its model loaded, and while it evaluates and saves the adapter."""


class Range(NamedTuple):
    """GPU-seconds that a training is expected to need."""

    low: int
    high: int


def expected(training_seconds: int, limit: int | None = None) -> Range:
    """Return the GPU time that a training is expected to need. limit: at which it is stopped."""
    low = training_seconds // UNCERTAINTY
    high = training_seconds * UNCERTAINTY + OVERHEAD
    return Range(low, high) if limit is None else Range(min(low, limit), min(high, limit))


def cost(per_gpu_hour: str, gpu_seconds: int) -> Decimal:
    """Return the exact cost of GPU time."""
    return Decimal(per_gpu_hour) * gpu_seconds / SECONDS_PER_HOUR


def affordable(per_gpu_hour: str, most: str) -> int | None:
    """Return the GPU-seconds that cost at most an amount; None if the price is zero."""
    price = Decimal(per_gpu_hour)
    if not price:
        return None
    return int((Decimal(most) * SECONDS_PER_HOUR / price).to_integral_value(ROUND_FLOOR))


def hours(gpu_seconds: int) -> str:
    """Return GPU time in hours with two decimal places."""
    return f"{Decimal(gpu_seconds) / SECONDS_PER_HOUR:.2f}"


def money(amount: Decimal) -> str:
    """Return an amount with two decimal places."""
    return f"{amount:.2f}"
