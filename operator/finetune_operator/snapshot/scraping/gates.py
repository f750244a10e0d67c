"""Reads the reports of the gates of all endpoints in the background.

As with the metrics of pods, a reconcile uses the last value, and another value wakes its endpoint.
A gate is a pod, so its report is parsed within bounds, and counts only if it names the pod and the
endpoint that were asked.

Each new list of names is also sent to the gate, because the kubelet may replace a mounted file only
after a minute. The list is signed, so nothing depends on how it arrives.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import ValidationError

from finetune_api.contracts.endpoint import EndpointStatus
from finetune_api.contracts.ports import VERIFIER_METRICS
from finetune_operator import delays
from finetune_operator.snapshot.scraping import http
from finetune_operator.snapshot.scraping.scraper import Changed
from finetune_operator.types import Key

AT_ONCE = 16
"""Requests of all endpoints."""

logger = logging.getLogger("finetune_operator.gates")


Send = Callable[[str, int, bytes], Awaitable[None]]
"""Takes address and port of a pod, and a signed list of names."""
Fetch = Callable[[str, int], Awaitable[bytes | None]]
"""Takes address and port of a pod; returns the report, None if there is none."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The pod of an endpoint. endpoint, pod: uids."""

    endpoint: str
    pod: str
    address: str


@dataclass(kw_only=True)
class _Polled:
    gate: Gate
    report: EndpointStatus | None = None
    at: float = float("-inf")
    """Time of the last report."""
    due: float = 0.0
    since: float = 0.0
    """Time of the first question."""
    is_first: bool = False
    """Whether this process has asked no pod of the endpoint before."""


async def send(address: str, port: int, document: bytes) -> None:
    """Send a list of names."""
    await http.put(address, port, path="/wanted", content=document)


async def report_of(address: str, port: int) -> bytes | None:
    """Return the text of a report."""
    return await http.get(address, port, path="/status", most=http.MAX_REPORT_BYTES)


@dataclass(kw_only=True)
class Gates:
    """The last reports by endpoint."""

    fetch: Fetch = report_of
    send: Send = send
    clock: Callable[[], float] = time.monotonic
    _polled: dict[Key, _Polled] = field(default_factory=dict)
    _observed: set[Key] = field(default_factory=set)
    """Endpoints of which this process has seen a pod, or that there is none."""
    _lists: dict[Key, tuple[int, bytes]] = field(default_factory=dict)
    """Signed lists of names that no gate has reported yet, with their numbers."""

    def latest(self, key: Key, gate: Gate | None) -> EndpointStatus | None:
        """Return the last report of an endpoint's gate; from now on, exactly this pod is asked."""
        polled = self._polled.get(key)
        is_first = key not in self._observed
        self._observed.add(key)
        if gate is None:
            self._polled.pop(key, None)
            return None
        if polled is None or polled.gate != gate:
            self._polled[key] = _Polled(gate=gate, since=self.clock(), is_first=is_first)
            return None
        return polled.report if self.clock() - polled.at < delays.STALE_METRICS else None

    def awaits(self, key: Key) -> bool:
        """Report whether the first report of an endpoint's gate to this process may still come."""
        polled = self._polled.get(key)
        return (
            polled is not None
            and polled.is_first
            and polled.report is None
            and self.clock() - polled.since < delays.STALE_METRICS
        )

    def offer(self, key: Key, number: int, document: str) -> None:
        """Send another list of names to the gate of an endpoint, until the gate reports it."""
        self._lists[key] = number, document.encode()
        if (polled := self._polled.get(key)) is not None:
            polled.due = 0.0

    def forget(self, key: Key) -> None:
        """Ask the gate of an endpoint no more."""
        self._polled.pop(key, None)
        self._observed.discard(key)
        self._lists.pop(key, None)

    async def run(self, *, changed: Changed) -> None:
        """Ask all gates until cancelled."""
        turns = asyncio.Semaphore(AT_ONCE)
        while True:
            now = self.clock()
            due = [(key, polled) for key, polled in self._polled.items() if polled.due <= now]
            await asyncio.gather(*(self._ask(key, polled, turns, changed) for key, polled in due))
            await asyncio.sleep(delays.GATE_TICK)

    async def _ask(
        self, key: Key, polled: _Polled, turns: asyncio.Semaphore, changed: Changed
    ) -> None:
        listed = None
        async with turns:
            try:
                if (listed := self._lists.get(key)) is not None:
                    await self.send(polled.gate.address, VERIFIER_METRICS, listed[1])
                text = await self.fetch(polled.gate.address, VERIFIER_METRICS)
            except Exception:
                # A pod must not end the loop, which would end the operator.
                logger.exception("the report of a gate cannot be read")
                text = None
        now = self.clock()
        polled.due = now + delays.GATE
        report = None if text is None else parsed(text, polled.gate)
        if report is None or self._polled.get(key) is not polled:
            return
        if listed is not None and (report.refused or (report.sequence or 0) >= listed[0]):
            self._end(key, listed)
        before, polled.report, polled.at = polled.report, report, now
        if before is None or _state(before) != _state(report):
            changed(key, urgent=True)

    def _end(self, key: Key, listed: tuple[int, bytes]) -> None:
        """Send a list no more, unless another one was offered since."""
        if self._lists.get(key) is listed:
            del self._lists[key]


def parsed(text: bytes, gate: Gate) -> EndpointStatus | None:
    """Return the report in a text, None if it is not that of this pod and endpoint."""
    try:
        report = EndpointStatus.model_validate_json(text)
    except ValidationError:
        return None
    return report if (report.endpoint, report.pod) == (gate.endpoint, gate.pod) else None


def _state(report: EndpointStatus) -> EndpointStatus:
    """Return a report without its counts of requests, which every report changes."""
    counts = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
    names = tuple(name.model_copy(update=counts) for name in report.names)
    return report.model_copy(update={"names": names})
