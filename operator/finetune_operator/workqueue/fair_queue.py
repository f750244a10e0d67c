"""Queued keys in the order in which they are processed. A key begins with a namespace.

* A queued key is not queued twice: adding it again can only raise its priority.
* Namespaces take turns: however many keys one of them has, the next key of each other namespace is
  processed after at most one key of every namespace with queued keys.
* Within a namespace, a key is processed before keys of a lower ``Priority``, unless these have been
  queued for some seconds longer (``HEAD_START_SECONDS``): no key waits forever.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum, auto
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=tuple[str, *tuple[object, ...]])


class Priority(IntEnum):
    """Why a key is queued, the most urgent reason first."""

    NEW = auto()
    """A job that was not reconciled before."""
    EVENT = auto()
    """A change, after which a job may continue, for example on a GPU."""
    POLL = auto()
    """A status that is updated from time to time."""


HEAD_START_SECONDS = {Priority.NEW: 0.0, Priority.EVENT: 2.0, Priority.POLL: 60.0}
"""How much earlier a key must have been queued to be processed before one of priority NEW. If the
queue is long, polls would otherwise delay the reconciles after which a job continues."""


class _Place(NamedTuple):
    overtaken_until: float
    """Of the keys that are queued after this time, none is processed earlier."""
    priority: Priority
    since: float


class FairQueue(Generic[K]):
    """Every operation takes constant time, however many keys are queued."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, dict[Priority, OrderedDict[K, None]]] = OrderedDict()
        """A line of keys for each priority of a namespace; the first namespace is the next."""
        self._places: dict[K, _Place] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: K, priority: Priority, now: float) -> None:
        """Queue a key, or raise the priority of a queued one."""
        place = _Place(now + HEAD_START_SECONDS[priority], priority, now)
        if (earlier := self._places.get(key)) is not None:
            if earlier.overtaken_until <= place.overtaken_until:
                return
            del self._lines[key[0]][earlier.priority][key]
            place = place._replace(since=earlier.since)
        lines = self._lines.setdefault(key[0], {level: OrderedDict() for level in Priority})
        # The clock never goes back, so the places of a line are in order.
        lines[priority][key] = None
        self._places[key] = place

    def pop(self, may_take: Callable[[str], bool]) -> tuple[K, float] | None:
        """Return the next key and the time at which it was queued.

        may_take: whether a key of a namespace may be taken now.
        """
        namespace = next(filter(may_take, self._lines), None)
        if namespace is None:
            return None
        lines = self._lines[namespace]
        # Of two equal places, that of the lower priority was taken earlier.
        heads = [next(iter(line)) for line in reversed(lines.values()) if line]
        key = min(heads, key=lambda head: self._places[head].overtaken_until)
        place = self._places.pop(key)
        del lines[place.priority][key]
        if any(lines.values()):
            self._lines.move_to_end(namespace)
        else:
            del self._lines[namespace]
        return key, place.since

    def clear(self) -> None:
        """Remove all keys."""
        self._lines.clear()
        self._places.clear()
