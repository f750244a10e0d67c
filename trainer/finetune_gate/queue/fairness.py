"""Which request enters the engine next, so that no name waits for long. Pure: time is an argument.

vLLM has places for ``max_active`` adapters in a batch, and refills the adapters that hold a place
while others wait: one busy name keeps its place for ever. So requests wait here, in one queue for
each name, and the engine only gets what it can compute at once:

    1.  At most ``capacity`` requests run. A place that becomes free goes to the name with the
        fewest running requests.
    2.  At most ``max_active`` names run. Of the names that wait to become active, the one that has
        waited longest is next.
    3.  While a name has waited longer than ``max_wait``, the active name that has held its place
        longest gets no further requests, so that it ends; one name for each that waits so long.

A name therefore waits at most for ``max_wait``, the longest running generation, and the names that
wait before it. Requests for the base, which occupies no adapter's place, follow rule 1 alone, in
the queues whose names begin with ``BASE``. There they count with those of their adapter, so that
more names of one model get no more places.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from finetune_gate.errors import Busy

Name = str
Ticket = Hashable
BASE: Name = "base:"
"""Queue of the proofs' requests for the base. With the name of an adapter, that of the callers of
its base, who thus delay neither proofs nor the callers of other models."""


@dataclass(kw_only=True)
class _Queue:
    """Requests of one name. Times are in seconds."""

    running: int = 0
    active_since: float = 0.0
    waiting_since: float = 0.0
    """When the name began to wait for a place among the active names."""
    stopped_since: float | None = None
    """When its admission was stopped (rule 3): from then on it waits too."""
    tickets: deque[tuple[Ticket, float]] = field(default_factory=deque)


class Fairness:
    """The queues of all names. Every method returns the tickets that enter the engine now."""

    def __init__(self, *, max_active: int, capacity: int, max_wait: float, longest: int) -> None:
        """``longest``: requests of one name that may wait."""
        self._max_active = max_active
        self._capacity = capacity
        self._max_wait = max_wait
        self._longest = longest
        self._queues: dict[Name, _Queue] = {}

    def add(self, name: Name, ticket: Ticket, now: float) -> list[Ticket]:
        """Let a request wait for its turn. Raise Busy if too many of the name wait."""
        queue = self._queues.setdefault(name, _Queue(waiting_since=now))
        if len(queue.tickets) >= self._longest:
            raise Busy(f"{len(queue.tickets)} requests for this model are waiting")
        queue.tickets.append((ticket, now))
        return self.admit(now)

    def remove(self, name: Name, ticket: Ticket, now: float) -> list[Ticket]:
        """Forget a request that waits, if it still does: its caller has left."""
        if (queue := self._queues.get(name)) is not None:
            queue.tickets = deque(entry for entry in queue.tickets if entry[0] != ticket)
            self._forget(name)
        return self.admit(now)

    def end(self, name: Name, now: float) -> list[Ticket]:
        """Record the end of a running request."""
        queue = self._queues[name]
        queue.running -= 1
        if not queue.running:
            queue.waiting_since = now if queue.stopped_since is None else queue.stopped_since
            queue.stopped_since = None
        self._forget(name)
        return self.admit(now)

    def pending(self, name: Name) -> int:
        """Return the number of requests of a name that run or wait."""
        queue = self._queues.get(name)
        return 0 if queue is None else queue.running + len(queue.tickets)

    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return sum(len(queue.tickets) for queue in self._queues.values())

    def admit(self, now: float) -> list[Ticket]:
        """Return the requests that enter the engine now.

        Each addition and each end of a request calls it. Time alone lets nobody enter: a long wait
        only stops another name.
        """
        entered = []
        total = sum(queue.running for queue in self._queues.values())
        while total < self._capacity and (name := self._next(now)) is not None:
            queue = self._queues[name]
            if not queue.running:
                queue.active_since = now
            queue.running += 1
            total += 1
            entered.append(queue.tickets.popleft()[0])
        return entered

    def _next(self, now: float) -> Name | None:
        """Return the name whose next request enters."""
        stopped = self._stop(now)
        free = len(self._active()) < self._max_active
        candidates = [
            (
                self._running(name.removeprefix(BASE)),
                queue.tickets[0][1] if queue.running else queue.waiting_since,
                name,
            )
            for name, queue in self._queues.items()
            if queue.tickets
            and (_is_base(name) or (name not in stopped if queue.running else free))
        ]
        return min(candidates)[2] if candidates else None

    def _running(self, adapter: Name) -> int:
        """Return the number of running requests for an adapter and its base."""
        queues = (self._queues.get(name) for name in (adapter, f"{BASE}{adapter}"))
        return sum(queue.running for queue in queues if queue is not None)

    def _stop(self, now: float) -> set[Name]:
        """Return the active names that get no further requests (rule 3)."""
        active = sorted(self._active(), key=lambda entry: entry[1].active_since)
        overdue = [
            name for name, queue in self._inactive() if now - queue.waiting_since > self._max_wait
        ]
        count = len(overdue) if len(active) >= self._max_active else 0
        for number, (_, queue) in enumerate(active):
            if number >= count:
                queue.stopped_since = None
            elif queue.stopped_since is None:
                queue.stopped_since = now
        return {name for name, _ in active[:count]}

    def _active(self) -> list[tuple[Name, _Queue]]:
        return [
            entry for entry in self._queues.items() if entry[1].running and not _is_base(entry[0])
        ]

    def _inactive(self) -> list[tuple[Name, _Queue]]:
        return [
            entry
            for entry in self._queues.items()
            if entry[1].tickets and not entry[1].running and not _is_base(entry[0])
        ]

    def _forget(self, name: Name) -> None:
        queue = self._queues[name]
        if not queue.running and not queue.tickets:
            del self._queues[name]


def _is_base(name: Name) -> bool:
    return name.startswith(BASE)
