"""Events that the sink has not accepted yet, and the task that sends them.

A reconcile only adds events (``observed``), so neither a slow nor an unreachable sink delays it.
Events are sent in the order in which they were added, at least once. One that the sink refuses
repeatedly goes behind the others, which it may accept, and is dropped a day after its transition.

A failover loses none: the Lease carries the time up to which all events were sent to the next
leader. At its first reconcile of a job, the leader adds the events after this time again, which the
conditions of the job still show. Their ids are the same, so that a receiver can drop those that it
knows.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta

from finetune_operator.notifications.events import CloudEvent, events
from finetune_operator.notifications.sink import Rejected, Unavailable
from finetune_operator.objects.conditions import timestamp
from finetune_operator.telemetry import metrics
from finetune_operator.types import Key, Object, Plan, Snapshot

MOST_PENDING = 10_000
"""Of more events, the oldest ones are dropped: about 10 MB."""
PATIENCE = 10
"""Refusals after which an event goes behind the others: about 15 minutes."""
KEPT_FOR = timedelta(days=1)
BACKOFF_BASE = 1.0
BACKOFF_CAP = 300.0
SLACK = timedelta(seconds=60)
"""The events of the last moments may not have been added when a leader ends: they have the time at
which their reconcile started, and are added after the response to the write of the status."""

logger = logging.getLogger("finetune_operator.notifications")


class Outbox:
    """The ``Telemetry`` of jobs that sends their events.

    send: raises Rejected and Unavailable; inherited: returns the note of the last leader, empty
    without one; keys: those of all jobs. Tests replace the clock.
    """

    def __init__(
        self,
        send: Callable[[CloudEvent], Awaitable[None]],
        inherited: Callable[[], str],
        keys: Callable[[], Iterable[Key]],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._send, self._inherited, self._keys, self._clock = send, inherited, keys, clock
        self._ended = ("", "")
        """The notes with which this replica was the leader last: the inherited one, and its own."""
        self._reset()
        metrics.NOTIFICATIONS_PENDING.set_function(lambda: len(self._pending))

    def _reset(self) -> None:
        self._sent_until: str | None = None
        """Up to when the leaders before sent all events; None before the first call as leader."""
        self._pending: dict[str, CloudEvent] = {}
        self._refusals: dict[str, int] = {}
        """Number of refusals of each pending event, by id."""
        self._added = asyncio.Event()
        self._shown: dict[Key, frozenset[str]] = {}
        """The ids of the events that the status of each job showed last."""
        self._unobserved: set[Key] = set()
        """The jobs that may show events which no leader has sent."""

    def observed(self, key: Key, snapshot: Snapshot, status: Object) -> None:
        """Add the events that the status of a job shows and that were not added before."""
        self._show(key, snapshot, status)

    def written(self, snapshot: Snapshot, plan: Plan) -> None:
        """Add the events of a status that was written, though its reconcile may still fail."""
        metadata = snapshot.job["metadata"]
        self._show((metadata["namespace"], metadata["name"]), snapshot, plan.status)

    def _show(self, key: Key, snapshot: Snapshot, status: Object) -> None:
        sent_until = self._begin()
        shown = events(snapshot.job, status)
        shown_before = self._shown.get(key)
        if shown_before is None:
            before = events(snapshot.job, snapshot.job.get("status") or {})
            shown_before = frozenset(event.id for event in before if event.time < sent_until)
        for event in shown:
            if event.id not in shown_before:
                self._add(event)
        self._shown[key] = frozenset(event.id for event in shown)
        self._unobserved.discard(key)

    def forget(self, key: Key) -> None:
        """Forget a job. Its events are still sent."""
        self._shown.pop(key, None)
        self._unobserved.discard(key)

    def note(self) -> str:
        """Return the time up to which all events were sent, for the next leader."""
        if self._sent_until is None:
            inherited, own = self._ended
            return own if inherited == self._inherited() else self._inherited()
        if self._unobserved:
            # These jobs may still show older events.
            return self._sent_until
        times = [event.time for event in self._pending.values()]
        oldest = datetime.fromisoformat(min(times)) if times else self._clock()
        return timestamp((oldest - SLACK).astimezone(UTC))

    async def run(self) -> None:
        """Send events until cancelled; the next leader sends the rest."""
        self._begin()
        failures = 0
        try:
            while True:
                if not self._pending:
                    self._added.clear()
                    await self._added.wait()
                event = next(iter(self._pending.values()))
                try:
                    await self._send(event)
                except Unavailable as error:
                    failures += 1
                    seconds = _backoff(failures, error.retry_after)
                    metrics.NOTIFICATIONS.labels("retried").inc()
                    if error.answered:
                        self._refused(event)
                    logger.warning(
                        "failed to send a notification: %s",
                        error,
                        extra={"type": event.type, "retry_after": round(seconds, 1)},
                    )
                    await asyncio.sleep(seconds)
                    continue
                except Rejected as error:
                    metrics.NOTIFICATIONS.labels("rejected").inc()
                    logger.error(
                        "the sink rejected a notification, which was dropped: %s",
                        error,
                        extra={"type": event.type},
                    )
                else:
                    metrics.NOTIFICATIONS.labels("sent").inc()
                failures = 0
                self._remove(event)
        finally:
            self._ended = (self._inherited(), self.note())
            self._reset()

    def _begin(self) -> str:
        """Return up to when all events were sent before this replica became the leader."""
        if self._sent_until is None:
            # Without a note, the jobs have a past that nobody was to be notified of.
            self._sent_until = self._inherited() or timestamp(self._clock())
            self._unobserved = set(self._keys())
        return self._sent_until

    def _refused(self, event: CloudEvent) -> None:
        """Move an event behind the others, or drop it, if the sink has refused it for long."""
        if self._clock() - datetime.fromisoformat(event.time) > KEPT_FOR:
            self._remove(event)
            metrics.NOTIFICATIONS.labels("dropped").inc()
            return
        if event.id not in self._pending:
            return
        self._refusals[event.id] = self._refusals.get(event.id, 0) + 1
        if self._refusals[event.id] >= PATIENCE:
            self._pending[event.id] = self._pending.pop(event.id)

    def _remove(self, event: CloudEvent) -> None:
        self._pending.pop(event.id, None)
        self._refusals.pop(event.id, None)

    def _add(self, event: CloudEvent) -> None:
        self._pending.setdefault(event.id, event)
        if len(self._pending) > MOST_PENDING:
            self._remove(next(iter(self._pending.values())))
            metrics.NOTIFICATIONS.labels("dropped").inc()
        self._added.set()


def _backoff(failures: int, at_least: float) -> float:
    seconds = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures - 1, 16))
    # A delay is no secret.
    return max(at_least, seconds * random.uniform(0.5, 1.0))  # noqa: S311
