"""Event recorder: writes ``events.k8s.io/v1`` events, which ``kubectl describe`` shows.

The name of an event is derived from its object and its text, so a repeated event increments the
count of the same object, whichever process writes it. The limits are those of Kubernetes' recorder.
Plans contain events only for changes of the status, so a reconcile without changes records none. An
event that cannot be written is logged and dropped: it must not block the job.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import finetune_api
from finetune_api.safety.printable import printable
from finetune_operator.kube.client import FIELD_MANAGER, Kube
from finetune_operator.kube.errors import Conflict, OperatorError
from finetune_operator.kube.kinds import CORE_EVENT
from finetune_operator.objects.digest import sha256
from finetune_operator.rate_limit import RateLimit
from finetune_operator.types import Event, Object

_MAX_NOTE_BYTES = 1024
_IDENTITY = ("name", "namespace", "uid", "resourceVersion")
BURST = 25
REFILL_SECONDS = 300.0
"""A job gets this many events at once, then one in so many seconds. A tenant who edits a job
without end causes a reconcile each second, and each may have another message: in an hour, the
lifetime of events in etcd, 3,600 Event objects of 1.2 kB without the limit, and 37 with it."""

logger = logging.getLogger("finetune_operator.recorder")


class Recorder:
    """Writes events about jobs; ``instance`` is the name of the operator's pod."""

    def __init__(self, kube: Kube, *, instance: str) -> None:
        self._kube, self._instance = kube, instance
        self._limit: RateLimit[str] = RateLimit(interval=REFILL_SECONDS, burst=BURST)

    async def record(self, regarding: Object, events: Iterable[Event], now: datetime) -> None:
        """Write the events about an object, all at once."""
        uid = regarding["metadata"]["uid"]
        admitted = [event for event in events if self._limit.take(uid, time.monotonic())]
        await asyncio.gather(*(self._record(regarding, event, now) for event in admitted))

    async def _record(self, regarding: Object, event: Event, now: datetime) -> None:
        try:
            await self._write(render(regarding, event, now, self._instance))
        except OperatorError as error:
            logger.warning("failed to write an event: %s", error, extra={"reason": event.reason})

    async def _write(self, body: dict[str, Any]) -> None:
        try:
            await self._kube.create(body)
        except Conflict:
            metadata = body["metadata"]
            existing = await self._kube.get(CORE_EVENT, metadata["namespace"], metadata["name"])
            if existing is None:
                return
            count = int((existing.get("series") or {}).get("count") or 1) + 1
            series = {"count": count, "lastObservedTime": body["eventTime"]}
            await self._kube.merge(body, {"series": series})


def event_name(regarding: Object, event: Event) -> str:
    """Return the name of an event: equal for equal events about the same object."""
    metadata = regarding["metadata"]
    digest = sha256([metadata["uid"], event.type, event.reason, event.message])
    return f"{metadata['name']}.{digest[:16]}"


def render(regarding: Object, event: Event, now: datetime, instance: str) -> dict[str, Any]:
    """Return the Event object; its note is one line of the 1,024 bytes that the API accepts."""
    metadata = regarding["metadata"]
    note = printable(event.message).encode()[:_MAX_NOTE_BYTES].decode(errors="ignore")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": event_name(regarding, event),
            # Kubernetes keeps the events of cluster-scoped objects there.
            "namespace": metadata.get("namespace", "default"),
        },
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            **{key: metadata[key] for key in _IDENTITY if key in metadata},
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": note,
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"{finetune_api.GROUP}/{FIELD_MANAGER}",
        "reportingInstance": instance[:128] or FIELD_MANAGER,
    }
