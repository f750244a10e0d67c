"""Which events are written: the rules of Kubernetes' own event recorder.

* Equal events about an object are one Event object with a count.
* The tenth and every later event of a series of similar events is combined with the others into one
  Event object. Similar events differ only in their message, and follow each other within
  ``SIMILAR_SECONDS``.
* An object gets ``BURST`` events at once, and then one in ``REFILL_SECONDS``.

Only the latest objects are remembered. For an object that was forgotten, the rules start again; the
count continues, because the API server has it.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from finetune_operator.types import Event

SIMILAR_SECONDS = 600.0
MOST_SIMILAR = 10
BURST = 25
REFILL_SECONDS = 300.0
REMEMBERED_OBJECTS = 1024
"""With four series each, as many series as Kubernetes' recorder remembers. A job takes 2.4 kB."""
COMBINED = "(combined from similar events): "


@dataclass(slots=True)
class _Series:
    """Similar events about one object: their messages, and the time of the last one."""

    messages: tuple[str, ...] = ()
    last: float = 0.0
    combined: str = ""
    """Message of the combined event. The API server rejects a change of a message."""


@dataclass(slots=True)
class _Record:
    """The events about one object."""

    tokens: float = BURST
    refilled: float = 0.0
    series: dict[tuple[str, str], _Series] = field(default_factory=dict)


class Correlator:
    """Decides about one event after the other. clock: monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def admit(self, uid: str, event: Event) -> Event | None:
        """Return the event to write about an object, None if there were too many.

        The result is the event or, from the tenth similar one on, the combined event.
        """
        now = self._clock()
        record = self._records.setdefault(uid, _Record(refilled=now))
        self._records.move_to_end(uid)
        if len(self._records) > REMEMBERED_OBJECTS:
            self._records.popitem(last=False)
        event = _combined(record, event, now)
        record.tokens = min(BURST, record.tokens + (now - record.refilled) / REFILL_SECONDS)
        record.refilled = now
        if record.tokens < 1:
            return None
        record.tokens -= 1
        return event


def _combined(record: _Record, event: Event, now: float) -> Event:
    series = record.series.setdefault((event.type, event.reason), _Series())
    if now - series.last > SIMILAR_SECONDS:
        series.messages = ()
        series.combined = ""
    series.last = now
    if event.message in series.messages:
        return event
    if len(series.messages) < MOST_SIMILAR - 1:
        series.messages = (*series.messages, event.message)
        return event
    series.combined = series.combined or COMBINED + event.message
    return replace(event, message=series.combined)
