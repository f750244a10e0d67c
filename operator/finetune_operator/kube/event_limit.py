"""How many events about an object are written: ``BURST`` at once, then one in ``REFILL_SECONDS``.

These are the limits of Kubernetes' own recorder. A tenant who edits a job without end causes one
reconcile per second, and each may have another message: in an hour, the lifetime of events in etcd,
3,600 Event objects of 1.2 kB without the limit, and 37 with it.

Only the latest objects are remembered. An object that was forgotten gets a new burst.
"""

from collections import OrderedDict
from collections.abc import Callable

BURST = 25
REFILL_SECONDS = 300.0
REMEMBERED_OBJECTS = 1024


class EventLimit:
    """A token bucket for each object. clock: monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Number of tokens, and when it was computed, by uid; the latest object is the last."""

    def admit(self, uid: str) -> bool:
        """Report whether another event about an object may be written."""
        now = self._clock()
        tokens, computed = self._tokens.pop(uid, (float(BURST), now))
        tokens = min(BURST, tokens + (now - computed) / REFILL_SECONDS)
        admitted = tokens >= 1
        self._tokens[uid] = (tokens - admitted, now)
        if len(self._tokens) > REMEMBERED_OBJECTS:
            self._tokens.popitem(last=False)
        return admitted
