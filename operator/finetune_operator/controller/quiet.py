"""Status changes that can wait: a job's status is written at once only if someone acts on it.

While a stage runs or an endpoint starts, many changes of its status are progress: the percentage
rose, or the endpoint was created. If the status was written less than ``SECONDS`` ago, such a
change waits for the next reconcile, at the latest that of the next poll.

A change of the ledger never waits, because the next decisions depend on it. Nor does a change of
the spec's generation, of a condition, of the reason of Ready, or of a warning, nor the last change
of a job that rests.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from finetune_operator.types import Plan

SECONDS = 10.0
PROGRESS = {"summary", "progress", "eta", "preparation", "training", "serving", "endpoint"}
"""Fields of the status that change while a stage progresses."""


def is_progress(plan: Plan, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Report whether a plan changes only the progress in the status, and another one will follow.

    before, after: the status without empty values.
    """
    if plan.requeue_after is None or plan.events:
        return False
    return _kept(before) == _kept(after)


def _kept(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a status that never waits."""
    kept = {name: value for name, value in status.items() if name not in PROGRESS}
    kept["conditions"] = [
        (each["type"], each["status"], each["reason"] if each["type"] == "Ready" else "")
        for each in status.get("conditions") or ()
    ]
    return kept


@dataclass(frozen=True)
class RecentWrites:
    """The jobs whose status was written less than ``SECONDS`` ago."""

    _times: OrderedDict[str, datetime] = field(default_factory=OrderedDict)

    def add(self, uid: str, now: datetime) -> None:
        """Record a write of a job's status."""
        self._times[uid] = now
        self._times.move_to_end(uid)
        while self._times and not self._recent(next(iter(self._times.values())), now):
            self._times.popitem(last=False)

    def contains(self, uid: str, now: datetime) -> bool:
        """Report whether a job's status was written less than ``SECONDS`` ago."""
        return uid in self._times and self._recent(self._times[uid], now)

    @staticmethod
    def _recent(time: datetime, now: datetime) -> bool:
        # A clock that was set back must not delay a status.
        return timedelta(0) <= now - time < timedelta(seconds=SECONDS)
