"""The workers: take a key, look, plan, apply.

A look reads what is out of date since the last one (``views``). Where the plan asks for more than a
status, or a pod that should run does not answer, it reads the rest of what decides as well and
plans once more: nothing is created, changed or deleted that was not decided on what there is now.

What follows from how a look ended:

=============  ===========================================================================
done           look again after the plan's ``requeue_after``, where it names one
job is gone    forget it
Conflict       look again at once
Transient      look again after 5 ms, doubling up to 60 s
Terminal       write the refusal into the status, try again after ``REFUSED_SECONDS``
timeout, bug   like Transient, and counted apart
=============  ===========================================================================

A failure of one key never touches another. While a write of a job is refused, its looks write the
status that says so and not the planned one, or the conditions would flap with every attempt.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from finetune_operator.config import OperatorConfig
from finetune_operator.controller.apply import PlanExecutor
from finetune_operator.controller.resync import fingerprint
from finetune_operator.controller.workqueue import WorkQueue
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Conflict, Terminal, Transient
from finetune_operator.snapshot.cache import DECISIVE, FINETUNEJOB, SnapshotCache, SnapshotUpdate
from finetune_operator.snapshot.reader import observe, reread, silent
from finetune_operator.snapshot.scraper import Scrape
from finetune_operator.telemetry import logs, metrics
from finetune_operator.telemetry.job_metrics import FLEET, ready_reason
from finetune_operator.types import Key, Plan, Snapshot

WORKERS = 4
LOOK_SECONDS = 30.0
REFUSED_SECONDS = 30.0
SETTLE_SECONDS = 0.1
"""From an event of a child to the look: others mostly follow, and one look is enough for them."""
EARLIEST = 0.95
"""Of a delay: how much of it passes at least."""

logger = logging.getLogger(__name__)


class Planner(Protocol):
    """The pure core (``finetune_operator.reconcile.plan``)."""

    def plan(self, snapshot: Snapshot, *, config: OperatorConfig, now: datetime) -> Plan:
        """Return what to do about a look."""

    def report(self, snapshot: Snapshot, *, reason: str, message: str, now: datetime) -> Plan:
        """Return a plan that says why nothing can be done."""


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(kw_only=True)
class Controller:
    """See the module."""

    kube: Kube
    applier: PlanExecutor
    config: OperatorConfig
    planner: Planner
    scrape: Scrape
    queue: WorkQueue[Key] = field(default_factory=lambda: WorkQueue(metrics.CONTROLLER))
    clock: Callable[[], datetime] = utc_now
    workers: int = WORKERS
    snapshot: dict[Key, int] = field(default_factory=dict)
    """Fingerprints of what the last looks saw and wrote (``resync``)."""
    views: SnapshotCache = field(default_factory=SnapshotCache)
    _uids: dict[Key, str] = field(default_factory=dict)
    _refused: dict[Key, Terminal] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def wake(self, key: Key) -> None:
        """Queue a key, for a look that trusts nothing that is known of it."""
        if not self.stopping:
            self.views.forget(key)
            self.queue.add(key)

    def told(self, key: Key, kind: str, version: int | None) -> None:
        """Queue a key, if an event says what the last look has not seen (``Views.told``).

        While this replica stands by nothing is queued: its turn begins with a resync.
        """
        if not self.stopping and self.views.told(key, kind, version):
            self.queue.add_after(key, 0.0 if kind == FINETUNEJOB else SETTLE_SECONDS)

    async def run(self) -> None:
        """Work until ``stop``. Raises what ends a worker; none ends by itself."""
        metrics.MAX_WORKERS.labels(metrics.CONTROLLER).set(self.workers)
        self._tasks = [
            asyncio.create_task(self._work(), name=f"worker-{number}")
            for number in range(self.workers)
        ]
        try:
            for task in asyncio.as_completed(self._tasks):
                await task
        except asyncio.CancelledError:
            if not self.stopping:
                raise
        finally:
            await self.stop()

    @property
    def stopping(self) -> bool:
        """Whether the workers are gone or going."""
        return not self._tasks

    @property
    def alive(self) -> bool:
        """Whether no worker that should live is gone; a replica that stands by has none."""
        return not any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        """End the workers; a look in progress is cut off, as a crash would.

        What is known of the jobs is forgotten: another replica counts them from now on, and what is
        deleted meanwhile would be counted for ever.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.queue.clear()
        for key in list(self._uids):
            self._forget(key)
        self.views.clear()

    async def _work(self) -> None:
        while True:
            async with self.queue.take() as key:
                with (
                    logs.about(*key),
                    metrics.ACTIVE_WORKERS.labels(metrics.CONTROLLER).track_inprogress(),
                ):
                    with metrics.RECONCILE_SECONDS.labels(metrics.CONTROLLER).time():
                        result = await self.reconcile(key)
                    metrics.RECONCILE_TOTAL.labels(metrics.CONTROLLER, result).inc()

    async def reconcile(self, key: Key) -> str:
        """Look at one job once and see to its next look; return how it ended, in one word."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                after = await self._look(key)
        except Conflict as error:
            logger.debug("changed meanwhile: %s", error)
            self.queue.add(key)
            return "requeue"
        except Terminal as error:
            metrics.RECONCILE_TERMINAL.labels(metrics.CONTROLLER).inc()
            logger.warning("refused: %s", error, extra={"reason": error.reason})
            self.queue.forget(key)
            self.queue.add_after(key, REFUSED_SECONDS)
            return "error"
        except Transient as error:
            seconds = self.queue.retry(key, error.retry_after or 0.0)
            logger.warning("failed: %s", error, extra={"retry_after": round(seconds, 3)})
        except TimeoutError:
            metrics.RECONCILE_TIMEOUTS.labels(metrics.CONTROLLER).inc()
            self.queue.retry(key)
            logger.error("cut off after %.0f s", LOOK_SECONDS)
        except Exception:
            self.queue.retry(key)
            logger.exception("a defect of the operator")
        else:
            self.queue.forget(key)
            if after is None:
                return "success"
            # Spread, so that jobs that were seen together at start are not for ever.
            self.queue.add_after(key, after * random.uniform(EARLIEST, 2 - EARLIEST))
            return "requeue_after"
        metrics.RECONCILE_ERRORS.labels(metrics.CONTROLLER).inc()
        return "error"

    async def _look(self, key: Key) -> float | None:
        """Look, plan, apply; return the seconds until the next look, None where there is none."""
        if (left := self.views.left(key, time.monotonic())) > 0:
            return left
        now = self.clock()
        known, outdated = self.views.begin(key)
        before = known.snapshot if known else None
        snapshot = await observe(self.kube, *key, self.scrape, before=before, kinds=outdated)
        plan = None if snapshot is None else self._plan(snapshot, now)
        missing = DECISIVE - outdated
        if snapshot is not None and plan is not None and missing and self._dares(snapshot, plan):
            snapshot = await reread(self.kube, *key, snapshot, missing)
            plan = None if snapshot is None else self._plan(snapshot, now)
        if snapshot is None or plan is None:
            self._forget(key)
            return None
        uid = snapshot.job["metadata"]["uid"]
        if self._uids.get(key, uid) != uid:
            self._forget(key)
        self._uids[key] = uid
        self.snapshot[key] = fingerprint(snapshot)
        view = SnapshotUpdate(snapshot=snapshot, known=known)
        refused = self._refused.get(key)
        intended = plan
        if refused is not None and plan.actions:
            plan = self._reported(snapshot, plan, refused, now)
        try:
            writes = await self.applier.apply(snapshot, plan, now, view.wrote)
        except Terminal as error:
            self._refused[key] = error
            if refused is None or (refused.reason, str(refused)) != (error.reason, str(error)):
                await self._report(key, error)
            raise
        if self._refused.pop(key, None) is not None and plan is not intended:
            self.queue.add(key)
            plan = replace(plan, requeue_after=None)
        planned_for, self.snapshot[key] = self.snapshot[key], fingerprint(view.snapshot)
        acted = bool(view.outdated) or planned_for != self.snapshot[key]
        if plan.requeue_after is None:
            self.views.forget(key)
        else:
            # What was done is seen at once, and so the ledger says it.
            wait = 0.0 if acted else EARLIEST * plan.requeue_after
            self.views.keep(key, view, due=time.monotonic() + wait)
            if acted:
                self.queue.add_after(key, SETTLE_SECONDS)
        FLEET.saw(key, snapshot.pods, plan.status)
        reason = ready_reason(plan.status)
        if acted or reason != ready_reason(snapshot.job.get("status", {})):
            logger.info("reconciled", extra={"reason": reason, "writes": writes})
        return plan.requeue_after

    def _dares(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Tell whether what is known, and may be old, is not good enough for what was planned."""
        return self.applier.acts(snapshot, plan) or silent(snapshot)

    def _plan(self, snapshot: Snapshot, now: datetime) -> Plan:
        return self.planner.plan(snapshot, config=self.config, now=now)

    def _reported(self, snapshot: Snapshot, plan: Plan, error: Terminal, now: datetime) -> Plan:
        """Return the plan with conditions that say what is refused."""
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        return Plan(
            status={**plan.status, "conditions": report.status["conditions"]},
            actions=plan.actions,
            events=report.events,
            requeue_after=plan.requeue_after,
        )

    async def _report(self, key: Key, error: Terminal) -> None:
        """Write what was refused, onto a look that has seen what was written before it."""
        snapshot = await observe(self.kube, *key, self.scrape)
        if snapshot is None:
            return
        now = self.clock()
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        await self.applier.apply(snapshot, Plan(status=report.status, events=report.events), now)
        FLEET.saw(key, snapshot.pods, report.status)

    def _forget(self, key: Key) -> None:
        self.snapshot.pop(key, None)
        self.views.forget(key)
        if (uid := self._uids.pop(key, None)) is not None:
            self.applier.forget(uid)
        self._refused.pop(key, None)
        FLEET.forget(key)
