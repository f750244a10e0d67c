"""Events that people see in ``kubectl describe``, of the kind ``events.k8s.io/v1``.

An event's name is derived from what it is about and what it says, so the same thing said again is
a count on the same object and never a second one, whichever process says it. Only what changed in
a status is said, so looks that change nothing say nothing. An event that cannot be written is
logged and dropped: it must not keep a job from going on.
"""

import hashlib
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from finetune_operator.kube.client import FIELD_MANAGER, Kube
from finetune_operator.kube.errors import Conflict, OperatorError
from finetune_operator.kube.kinds import CORE_EVENT
from finetune_operator.types import Event, Object

_NOTE_BYTES = 1024

logger = logging.getLogger(__name__)


class Recorder:
    """Writes events about jobs; ``instance`` is the name of the operator's pod."""

    def __init__(self, kube: Kube, *, instance: str) -> None:
        self._kube, self._instance = kube, instance

    async def record(self, job: Object, events: Iterable[Event], now: datetime) -> None:
        """Write the events about a job."""
        for event in events:
            try:
                await self._write(rendered(job, event, now, self._instance))
            except OperatorError as error:
                logger.warning("event not written: %s", error, extra={"reason": event.reason})

    async def _write(self, body: dict[str, Any]) -> None:
        try:
            await self._kube.create(body)
        except Conflict:
            metadata = body["metadata"]
            present = await self._kube.get(CORE_EVENT, metadata["namespace"], metadata["name"])
            if present is None:
                return
            count = int((present.get("series") or {}).get("count") or 1) + 1
            series = {"count": count, "lastObservedTime": body["eventTime"]}
            await self._kube.merge(body, {"series": series})


def name_of(job: Object, event: Event) -> str:
    """Return an event's name: the same for the same thing said about the same object."""
    metadata = job["metadata"]
    said = "\n".join((metadata["uid"], event.type, event.reason, event.message))
    return f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def rendered(job: Object, event: Event, now: datetime, instance: str) -> dict[str, Any]:
    """Return an event as an object."""
    metadata = job["metadata"]
    note = event.message.encode()[:_NOTE_BYTES].decode(errors="ignore")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name_of(job, event), "namespace": metadata["namespace"]},
        "regarding": {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": event.type,
        "reason": event.reason,
        "action": "Reconcile",
        "note": note,
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": f"finetune.dev/{FIELD_MANAGER}",
        "reportingInstance": instance[:128] or FIELD_MANAGER,
    }
