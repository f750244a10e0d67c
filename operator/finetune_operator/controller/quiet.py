"""Status changes that can wait: a job's status is written at once only if someone acts on it.

While a stage runs or an endpoint starts, many changes of its status are progress: the percentage or
the GPU-seconds rose, or the endpoint was created. If the status was written less than ``SECONDS``
ago, such a change waits for a later reconcile, at most ``MOST_SECONDS``.

So does what is observed for the first time of an attempt's Job and pod. It waits even if the last
write is older, because a short stage ends within this time. The next plans start from the status
that waits, so they decide as if it had been written. If the operator ends before, the next one
observes the Job and the pod again, as after a crash between the creation of a Job and the next
write.

No other change of the ledger waits, because actions or the reports of users depend on it. Nor does
a change of the spec's generation, of a condition, of the reason of Ready, or of a warning, nor the
last change of a job that rests.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.objects.encoding import decoded, encoded
from finetune_operator.types import Object, Plan

SECONDS = 10.0
MOST_SECONDS = 15.0
"""Until the next reconcile of a job whose status waits."""
PROGRESS = {
    "summary",
    "progress",
    "eta",
    "preparation",
    "training",
    "serving",
    "endpoint",
    "verification",
}
"""Fields of the status that change while a stage progresses."""
OBSERVED = {"job", "hasRun", "pod", "podCreated", "imageID"}
"""Fields of an attempt that its first reconciles observe."""
MEASURED = {"trainingStarted", "gpuSeconds"}
"""Fields of a revision that are computed again from its pod while the pod exists."""


def is_progress(plan: Plan, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Report whether a plan changes only the progress in the status, and another one will follow.

    before, after: the status without empty values.
    """
    if plan.requeue_after is None or plan.events:
        return False
    if _kept(before) != _kept(after):
        return False
    known, planned = _attempts(before), _attempts(after)
    return [name for name, _ in known] == [name for name, _ in planned] and all(
        one == other or _is_observed(one, other)
        for (_, one), (_, other) in zip(known, planned, strict=True)
    )


def is_observation(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Report whether progress contains more about an attempt's Job or pod than the last status."""
    return _attempts(before) != _attempts(after)


def _kept(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a status that never waits, without its attempts."""
    kept = {name: value for name, value in status.items() if name not in PROGRESS}
    kept["conditions"] = [
        (each["type"], each["status"], each["reason"] if each["type"] == "Ready" else "")
        for each in status.get("conditions") or ()
    ]
    ignored = {"stages"} | MEASURED
    kept["revisions"] = [
        {name: value for name, value in each.items() if name not in ignored}
        for each in status.get("revisions") or ()
    ]
    return kept


def _attempts(status: Mapping[str, Any]) -> list[tuple[str, Object]]:
    """Return the attempts in the ledger, each with the name of its revision."""
    return [
        (revision["revision"], attempt)
        for revision in status.get("revisions") or ()
        for attempt in revision.get("stages") or ()
    ]


def _is_observed(before: Object, after: Object) -> bool:
    """Report whether an attempt changes only in what was unknown about its Job and pod."""
    outcomes = (before["outcome"], after["outcome"])
    changed = {
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    } - {"outcome"}
    return (
        outcomes in (("Starting", "Running"), ("Running", "Running"))
        and changed <= OBSERVED
        and not any(before.get(name) for name in changed)
    )


@dataclass(slots=True, kw_only=True)
class StatusWrites:
    """Since when the status of a job waits to be written, and the status that waits."""

    last: datetime | None = None
    """The last write, or the first observation after it."""
    _waiting: bytes = b""
    _written: int = 0
    """Identifies the status that was written when the other one began to wait."""

    def wrote(self, now: datetime) -> None:
        """Record a write."""
        self.last = now
        self.drop()

    def observed(self, now: datetime) -> None:
        """Begin to wait, because something was observed, unless a status waits already."""
        if not self.waits:
            self.last = now

    def drop(self) -> None:
        """Forget the status that waits: it was written, or is out of date."""
        self._waiting = b""

    def wait(self, job: Object, status: Object) -> None:
        """Remember the status that waits, instead of any earlier one. job: as it was read."""
        self._waiting = zlib.compress(encoded(dict(status)), level=1)
        self._written = _identity(job)

    @property
    def waits(self) -> bool:
        """Whether a status waits to be written."""
        return bool(self._waiting)

    def quiet_for(self, now: datetime) -> float:
        """Return the seconds for which progress waits, until ``SECONDS`` after the last write."""
        age = SECONDS if self.last is None else (now - self.last).total_seconds()
        # A clock that was set back must not delay a status.
        return SECONDS - age if 0 <= age < SECONDS else 0.0

    def latest(self, job: Object) -> Object:
        """Return a job with the status that waits, unless another status was written since."""
        if not self.waits or _identity(job) != self._written:
            return job
        return {**job, "status": decoded(zlib.decompress(self._waiting))}


def _identity(job: Object) -> int:
    return hash(encoded(dict(job.get("status") or {})))
