"""Waiting for a place in the engine: ``fairness`` with a clock and coroutines."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from finetune_gate.queue.fairness import Fairness, Name, Ticket


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ticket:
    """A request that waits. entered: done when it has a place, cancelled when its caller left."""

    name: Name
    entered: "asyncio.Future[None]"


class Places:
    """The places of the engine. Callers and proofs wait in the same queues."""

    def __init__(self, fairness: Fairness) -> None:
        self._fairness = fairness

    @asynccontextmanager
    async def place(self, name: Name) -> AsyncIterator[None]:
        """Hold a place for one request of a name, under its internal name. Raise Busy."""
        ticket = _Ticket(name=name, entered=asyncio.get_running_loop().create_future())
        self._enter(self._fairness.add(name, ticket, time.monotonic()))
        try:
            await ticket.entered
        except asyncio.CancelledError:
            if ticket.entered.cancelled():
                self._enter(self._fairness.remove(name, ticket, time.monotonic()))
            else:
                # It entered at the moment of the cancellation.
                self._end(name)
            raise
        try:
            yield
        finally:
            self._end(name)

    def pending(self, name: Name) -> int:
        """Return the number of requests of a name that run or wait."""
        return self._fairness.pending(name)

    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return self._fairness.waiting()

    def _end(self, name: Name) -> None:
        self._enter(self._fairness.end(name, time.monotonic()))

    def _enter(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            assert isinstance(ticket, _Ticket)
            if ticket.entered.cancelled():
                # Its coroutine does not run before the next turn of the loop.
                self._end(ticket.name)
            else:
                ticket.entered.set_result(None)
