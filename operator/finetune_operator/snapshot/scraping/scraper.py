"""Scrapes the pods of all jobs in the background. A reconcile only uses the last values.

Workers of their own fetch the metrics, so that a slow pod delays no reconcile. At most
``NAMESPACE_WORKERS`` of them work for one namespace, so that its pods delay no scrape of another.
A value that differs from the previous one wakes the job; requests wake it once there have been none
for so long that the job may stop its serving pods. A failed scrape is no information about the pod,
which may be busy, starting or unreachable: the value is then unknown. The end of the first scrape
for a verification result wakes the job in any case, because the job may wait for it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from finetune_operator import delays
from finetune_operator.snapshot.scraping import exposition, http, trainer_metrics, verifier_metrics
from finetune_operator.snapshot.scraping.targets import Target
from finetune_operator.types import Key, PodProgress, Requests, Verification
from finetune_operator.workqueue.workqueue import WorkQueue

WORKERS = 32
NAMESPACE_WORKERS = 4

Fetch = Callable[[str, int], Awaitable[bytes | None]]
"""Takes address and port of a pod; returns the text of its metrics, None if the scrape failed."""
Value = PodProgress | Verification | Requests | float
"""The float is the share of the model that a starting pod has loaded."""


class Changed(Protocol):
    """Is called with the key of a job or endpoint of which a pod reports another value."""

    def __call__(self, key: Key, *, urgent: bool) -> None:
        """Record the change. urgent: whether something may wait for it."""


ScrapeKey = tuple[str, str, str]
"""Namespace and name of a FineTuneJob, and the slot of the target."""

logger = logging.getLogger("finetune_operator.scraper")


class PodMetrics(Protocol):
    """The last values of the pods of all jobs."""

    def latest(self, key: Key, targets: Iterable[Target]) -> tuple[Value, ...]:
        """Return the last values of a job's pods; from now on, exactly these pods are scraped."""

    def verification_due(self, key: Key) -> float:
        """Return for how many seconds a job may wait for the first scrape for a verification."""

    def forget(self, key: Key) -> None:
        """Stop scraping the pods of a job."""


@dataclass(slots=True, kw_only=True)
class _ScrapedPod:
    target: Target
    since: float
    value: Value | None = None
    at: float = -math.inf
    """End of the last scrape."""

    @property
    def awaited(self) -> bool:
        """Whether a job may wait for the first scrape, which has not ended yet."""
        return self.target.kind == "verification" and self.at == -math.inf


class Scraper:
    """The last values of the pods, and the workers that replace them.

    queue: limits how many scrapes of a namespace run at once.
    """

    def __init__(
        self,
        queue: WorkQueue[ScrapeKey],
        *,
        fetch: Fetch = http.get,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._fetch, self._clock = queue, fetch, clock
        self._scraped: dict[ScrapeKey, _ScrapedPod] = {}
        self._keys: dict[Key, frozenset[ScrapeKey]] = {}

    def latest(self, key: Key, targets: Iterable[Target]) -> tuple[Value, ...]:
        """Return the last values of a job's pods; from now on, exactly these pods are scraped."""
        now = self._clock()
        desired: dict[ScrapeKey, Target] = {(*key, target.slot): target for target in targets}
        for gone in self._keys.pop(key, frozenset()) - desired.keys():
            self._scraped.pop(gone, None)
        if desired:
            self._keys[key] = frozenset(desired)
        for scrape_key, target in desired.items():
            scraped = self._scraped.get(scrape_key)
            if scraped is None or scraped.target != target:
                self._scraped[scrape_key] = _ScrapedPod(target=target, since=now)
                self._queue.add(scrape_key)
        return tuple(
            scraped.value
            for scraped in map(self._scraped.__getitem__, desired)
            if scraped.value is not None and now - scraped.at < delays.STALE_METRICS
        )

    def verification_due(self, key: Key) -> float:
        """Return for how many seconds a job may wait for the first scrape for a verification.

        0 if there is no pod with an unknown result, or its first scrape has ended.
        """
        scraped = self._scraped.get((*key, "verification"))
        if scraped is None or not scraped.awaited:
            return 0.0
        return max(0.0, delays.FIRST_VERIFICATION - (self._clock() - scraped.since))

    def forget(self, key: Key) -> None:
        """Stop scraping the pods of a job."""
        self.latest(key, ())

    async def run(self, *, changed: Changed) -> None:
        """Scrape until cancelled."""

        async def work() -> None:
            while True:
                async with self._queue.take() as key:
                    await self._scrape(key, changed)

        async with asyncio.TaskGroup() as workers:
            for _ in range(WORKERS):
                workers.create_task(work())

    async def _scrape(self, key: ScrapeKey, changed: Changed) -> None:
        scraped = self._scraped.get(key)
        if scraped is None:
            return
        value = await self._value(scraped.target)
        if self._scraped.get(key) is not scraped:
            # The pod was replaced in the meantime; the next one is queued.
            return
        before, awaited, now = scraped.value, scraped.awaited, self._clock()
        scraped.value, scraped.at = value, now
        due = now + delays.scrape(now - scraped.since)
        self._queue.add_after(key, math.ceil(due / delays.TOGETHER) * delays.TOGETHER - now)
        if awaited or (value is not None and _is_news(value, before, scraped.target)):
            changed(key[:2], urgent=awaited or isinstance(value, Verification | Requests))

    async def _value(self, target: Target) -> Value | None:
        try:
            text = await self._fetch(target.address, target.port)
            return None if text is None else _parse(text, target)
        except Exception:
            # A pod must not end the workers, which would end the operator.
            logger.exception("scrape failed with an unexpected error", extra={"pod": target.pod})
            return None


def _is_news(value: Value, before: Value | None, target: Target) -> bool:
    """Report whether the job may decide something else than with the value before."""
    if isinstance(value, Requests):
        # Every scrape has another value.
        return target.idle_after is not None and value.idle_seconds >= target.idle_after
    return value != before


def _parse(text: bytes, target: Target) -> Value | None:
    series = exposition.parse(text, target.uid)
    if series is None:
        return None
    match target.kind:
        case "progress":
            return trainer_metrics.progress(series, target.uid)
        case "verification":
            return verifier_metrics.verification(series, pod=target.pod, build=target.build)
        case "loaded":
            return verifier_metrics.loaded(series)
        case "requests":
            return verifier_metrics.requests(series, pod=target.uid)
