"""Laws of usage and budgets, from nothing but the pods and the stored FineTuneUsages.

They are computed in another way than the operator does, from the objects as they are written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.fakes.apiserver import Thing

from finetune_operator.objects import endpoints, naming
from finetune_operator.objects.pods import scheduled_since
from finetune_operator.objects.stages import needs_gpu

HOUR = 3600


def time_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


@dataclass
class Held:
    """The GPU of a pod: from when, and until when, as the kubelet and the API server know it."""

    training: bool
    start: int
    end: int | None = None
    removed: bool = False
    settled: bool = False
    """Whether it was settled after its removal."""
    estimated: bool = False
    """Whether no operator knew its end when it was settled."""

    def seconds(self, now: int) -> int:
        return max(0, (now if self.end is None else self.end) - self.start)


@dataclass
class SpendingLaws:
    """The laws, and the pods that ever held a GPU."""

    pods: dict[str, Held] = field(default_factory=dict)
    """By uid."""
    charged: dict[str, int] = field(default_factory=dict)
    """What was last charged for each pod whose end is estimated."""
    prices: dict[str, Any] = field(default_factory=dict)

    def of_pods(self, present: Iterable[Thing], now: int, *, watched: bool) -> None:
        """Take the pods that exist. watched: whether an operator sees the removal of the others."""
        found = {each["metadata"]["uid"]: each for each in present}
        for uid, pod in found.items():
            stage = pod["metadata"]["labels"].get(naming.STAGE)
            has_gpu = needs_gpu(stage) or stage == endpoints.SERVING
            if not has_gpu or not pod["spec"].get("nodeName"):
                continue
            start = int(scheduled_since(pod).timestamp())
            held = self.pods.setdefault(uid, Held(stage == "train", start))
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                held.end = held.end or _finished(pod, now)
        for uid in self.pods.keys() - found.keys():
            held = self.pods[uid]
            held.removed = True
            held.end = held.end or now
            # What an operator has observed is lost with it.
            held.estimated |= not (watched or held.settled)

    def of_write(self, before: Thing, after: Thing, budgets: Iterable[Thing], now: int) -> None:
        """No total decreases, no price changes, and a reservation fits into every budget.

        before, after: the FineTuneUsages by name.
        """
        known = {_row(name, row): row["gpuSeconds"] for name, row in _rows(before)}
        totals = {_row(name, row): row["gpuSeconds"] for name, row in _rows(after)}
        for row, seconds in known.items():
            assert totals.get(row, 0) >= seconds, row
        for mark in _marks(after):
            price = mark.get("pricePerGpuHour"), mark.get("currency")
            assert self.prices.setdefault(mark["key"], price) == price, mark
            uid = mark["key"].rsplit("/", 1)[-1]
            if uid in self.pods:
                self.charged[uid] = mark["used"]
        if _added(before, after):
            for budget in budgets:
                committed_fits(budget, after, now)

    def of_start(self, usages: Thing, key: str) -> None:
        """A train Job is created after its reservation was stored."""
        held = {mark["key"] for mark in _reservations(usages)}
        assert key in held, f"{key} has no reservation"

    def of_endpoints(
        self, before: int, after: int, budgets: Iterable[Thing], usages: Thing, now: int
    ) -> None:
        """No reconcile gives endpoints more GPUs than every budget allows, or has left."""
        if after <= before:
            return
        for budget in budgets:
            spec = budget["spec"]
            serving, first = spec["serving"], _first(spec["period"], now)
            assert after <= serving.get("maxGpus", after), (before, after, serving)
            seconds = sum(
                row["gpuSeconds"]
                for _, row in _rows(usages)
                if row["purpose"] == "serving" and date.fromisoformat(row["day"]) >= first
            )
            assert "gpuHours" not in serving or seconds < serving["gpuHours"] * HOUR, seconds

    def of_settlement(self, usages: Thing, now: int) -> None:
        """The sum of the entries is what the pods really held, once."""
        total = sum(row["gpuSeconds"] for _, row in _rows(usages))
        for held in self.pods.values():
            held.settled |= held.removed
        vanished = {uid for uid, held in self.pods.items() if held.estimated}
        estimated = sum(self.charged.get(uid, 0) for uid in vanished)
        exact = sum(held.seconds(now) for uid, held in self.pods.items() if uid not in vanished)
        assert total - estimated == exact, (total, estimated, exact)
        for uid in vanished & self.charged.keys():
            held = self.pods[uid]
            assert held.training or self.charged[uid] >= held.seconds(now), "not undercounted"


def committed_fits(budget: Thing, usages: Thing, now: int) -> None:
    """What is used and reserved in the present period is within the limits of a budget."""
    spec = budget["spec"]
    limits, first = spec["training"], _first(spec["period"], now)
    rows = [
        row
        for _, row in _rows(usages)
        if row["purpose"] == "training" and date.fromisoformat(row["day"]) >= first
    ]
    held = list(_reservations(usages))
    seconds = sum(row["gpuSeconds"] for row in rows)
    seconds += sum(_rest(mark) for mark in held)
    assert seconds <= limits["gpuHours"] * HOUR, (spec, seconds / HOUR)
    assert len(held) <= limits.get("maxRunning", len(held))
    if "cost" in limits:
        cost: Decimal | int = sum(
            Decimal(row["cost"]) for row in rows if row.get("currency") == "EUR"
        )
        cost += sum(
            Decimal(mark["pricePerGpuHour"]) * _rest(mark) / HOUR
            for mark in held
            if mark.get("currency") == "EUR"
        )
        assert cost <= Decimal(limits["cost"]), (spec, cost)


def _rest(mark: Thing) -> int:
    """Return the reserved GPU-seconds that are not used. A pod of an unknown job reserves none."""
    return max(0, int(mark.get("cap", 0)) - int(mark["used"]))


def _first(period: str, now: int) -> date:
    """Return the first day of the present period."""
    today = datetime.fromtimestamp(now, UTC).date()
    if period == "Month":
        return today.replace(day=1)
    return today - timedelta(days=today.weekday()) if period == "Week" else today


def _finished(pod: Thing, now: int) -> int:
    ends = [
        each["state"]["terminated"]["finishedAt"]
        for each in pod["status"].get("containerStatuses", ())
        if "terminated" in each["state"]
    ]
    return max(map(time_of, ends), default=now)


def _rows(usages: Thing) -> Iterable[tuple[str, Thing]]:
    for name, each in usages.items():
        for row in each.get("status", {}).get("days", ()):
            yield name, row


def _row(name: str, row: Thing) -> tuple[Any, ...]:
    return name, row["day"], row["purpose"], row.get("pricePerGpuHour"), row.get("currency")


def _marks(usages: Thing) -> list[Thing]:
    """Return the marks of the newest FineTuneUsage that has some."""
    written = [name for name in sorted(usages) if usages[name].get("status")]
    return list(usages[written[-1]]["status"].get("marks", ())) if written else []


def _reservations(usages: Thing) -> Iterable[Thing]:
    return (each for each in _marks(usages) if not each.get("gpus") and not each.get("ended"))


def _added(before: Thing, after: Thing) -> bool:
    """Report whether a write makes a reservation, or enlarges one."""
    known: Mapping[str, int] = {mark["key"]: mark.get("cap", 0) for mark in _reservations(before)}
    return any(mark.get("cap", 0) > known.get(mark["key"], 0) for mark in _reservations(after))
