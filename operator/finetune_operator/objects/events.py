"""Facts about Events, in the forms of events.k8s.io/v1 and core/v1."""

from collections.abc import Iterable

from finetune_operator.types import Object


def note(
    events: Iterable[Object], about: Object, word: str | None = None, *, since: str = ""
) -> str | None:
    """Return the message of the newest event about an object, None if there is none after since."""
    uid = about["metadata"]["uid"]
    matching = [
        event
        for event in events
        if word in (None, event.get("reason"))
        and regarding(event).get("uid") == uid
        and last_time(event) >= since
    ]
    return text(max(matching, key=last_time)) if matching else None


def regarding(event: Object) -> Object:
    """Return the reference to the object that an event is about."""
    reference: Object = event.get("regarding") or event.get("involvedObject") or {}
    return reference


def text(event: Object) -> str:
    """Return the message of an event."""
    return str(event.get("note") or event.get("message") or event.get("reason"))


def last_time(event: Object) -> str:
    """Return when an event happened last; a repeated event is the same object with a later time."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return max(str(time) for time in times if time) if any(times) else ""
