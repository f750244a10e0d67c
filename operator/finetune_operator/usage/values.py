"""The usage of namespaces, as snapshots offer it to planners.

``Snapshot.usage`` is None while the chart value ``usage.enabled`` is false. A planner that wants to
start a training sets ``Plan.reservation``; the train Job is created by a plan whose snapshot has
the reservation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal

from finetune_api.contracts import cost as costs_of
from finetune_api.v1alpha1.budgets.usage import Purpose
from finetune_api.v1alpha1.profile import Price


def cost(price: Price, gpu_seconds: int) -> Decimal:
    """Return the exact cost of GPU time."""
    return costs_of.cost(price.per_gpu_hour, gpu_seconds)


def training_key(job_uid: str, revision: str) -> str:
    """Return the key of the training of a revision."""
    return f"train/{job_uid}/{revision}"


@dataclass(frozen=True, kw_only=True)
class DayUse:
    """What a namespace has used on one day for one purpose."""

    gpu_seconds: int = 0
    costs: Mapping[str, Decimal] = field(default_factory=dict)
    """By currency. GPU time whose price is unknown has none."""


@dataclass(frozen=True, kw_only=True)
class ReservationRequest:
    """The wish to start the training of a revision."""

    key: str
    """``training_key``."""
    namespace: str
    job: str
    cap: int | None
    """GPU-seconds that the training may use over all attempts; None if nothing limits it."""
    price: Price | None


@dataclass(frozen=True, kw_only=True)
class Reservation(ReservationRequest):
    """The reservation of a training that has not ended."""

    used: int
    """GPU-seconds of its pods that are charged already."""

    @property
    def remaining(self) -> int:
        """GPU-seconds that are reserved and not used yet."""
        return max(0, (self.cap or 0) - self.used)

    @property
    def remaining_cost(self) -> Decimal | None:
        """Cost of the remaining GPU-seconds, None if the price is unknown."""
        return None if self.price is None else cost(self.price, self.remaining)


@dataclass(frozen=True, kw_only=True)
class NamespaceUsage:
    """The usage of one namespace: of the present and of the previous month."""

    days: Mapping[tuple[date, Purpose], DayUse] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    """Of trainings that have not ended, by key."""
    trained: Mapping[str, int] = field(default_factory=dict)
    """Charged GPU-seconds of every training that is known, ended or not, by key."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The usage of all namespaces."""

    now: datetime
    """By the clock of the API server."""
    namespaces: Mapping[str, NamespaceUsage] = field(default_factory=dict)
