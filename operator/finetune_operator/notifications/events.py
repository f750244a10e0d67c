"""The conditions of a FineTuneJob as CloudEvents 1.0. Pure.

An event is the last transition of a condition, so it can be derived again from the status at any
time, with the same id. The types are those of the webhooks of OpenAI's fine-tuning API, in the same
style for states that this API does not have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_api import API_VERSION
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import status_view
from finetune_operator.objects.status_view import NOTHING, Values
from finetune_operator.types import Object

PREFIX = "fine_tuning.job"
CONTENT_TYPE = "application/cloudevents+json"
MAX_MESSAGE = 1024
"""Characters of the message of ``Ready`` in an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """An event. ``time``: of the transition, as conditions have it."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: Mapping[str, Any]

    def to_json(self) -> bytes:
        """Return the event in the structured mode of HTTP."""
        return orjson.dumps(
            {
                "specversion": "1.0",
                "id": self.id,
                "source": self.source,
                "type": self.type,
                "subject": self.subject,
                "time": self.time,
                "datacontenttype": "application/json",
                "data": self.data,
            }
        )


def events(job: Object, status: Values) -> tuple[CloudEvent, ...]:
    """Return the events that the conditions in a status stand for. job: with this status or not."""
    view = status_view.of(status)
    metadata, ready = job["metadata"], view.conditions.get("Ready", NOTHING)
    data = {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "revision": view.revision,
        "build": view.build,
        "reason": ready.get("reason"),
        "message": str(ready.get("message", ""))[:MAX_MESSAGE],
        "endpoint": view.endpoint,
    }
    return tuple(
        CloudEvent(
            # Without the revision: an edit of a paused job is no second pause.
            id=f"{metadata['uid']}/{name}/{time}",
            source=f"/apis/{API_VERSION}/namespaces/{metadata['namespace']}/finetunejobs/"
            f"{metadata['name']}",
            type=f"{PREFIX}.{name}",
            subject=metadata["name"],
            time=time,
            data={key: value for key, value in data.items() if value is not None},
        )
        for name, time in _transitions(view.conditions)
    )


def _transitions(conditions: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
    """Yield the names of the states that a job is in, and since when."""
    since = {
        type_: str(condition["lastTransitionTime"])
        for type_, condition in conditions.items()
        if condition["status"] == "True"
    }
    if "Succeeded" in since:
        yield "succeeded", since["Succeeded"]
    if "Stalled" in since:
        # A stalled job can fail, and a failed one can be edited so that it only waits.
        finished = conditions.get("Finished", NOTHING).get("lastTransitionTime", "")
        at = max(since["Stalled"], str(finished))
        yield ("failed" if "Finished" in since else "stalled"), at
    if "Suspended" in since and conditions["Suspended"]["reason"] == Reason.SUSPENDED_BY_USER:
        yield "paused", since["Suspended"]
    if "Published" in since:
        yield "published", since["Published"]
    if "Ready" in since:
        yield "ready", since["Ready"]
