"""The reconciler: observes one job, plans, and executes the plan.

It reads the kinds that are stale in the cache. If the plan needs writes other than a status, or if
a pod has ended and its Job has not, it confirms the kinds that decide this with a live read and
plans again. So nothing is created, changed or deleted on stale information.

While the API server rejects a write of a job, the reconciler writes a status that reports the
rejection instead of the planned conditions. Otherwise the conditions would alternate with every
attempt.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import OperatorConfig
from finetune_operator.controller.apply import PlanExecutor, needs_writes
from finetune_operator.controller.memory import JobMemory
from finetune_operator.controller.resync import fingerprint
from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal
from finetune_operator.snapshot import reader
from finetune_operator.snapshot.cache import CONFIRMED_KINDS, SnapshotUpdate
from finetune_operator.snapshot.scraper import PodMetrics
from finetune_operator.telemetry.job_metrics import (
    JOB_METRICS,
    JobMetrics,
    JobSample,
    ready_reason,
)
from finetune_operator.types import Key, Object, Plan, Snapshot

FOLLOW_UP_SECONDS = 0.1
"""Delay of the reconcile that follows a change, which records it in the ledger."""
FRESH_SHARE = 0.95
"""Share of ``requeue_after`` for which a job without events is not reconciled."""

logger = logging.getLogger("finetune_operator.controller")


class Planner(Protocol):
    """The pure core (``finetune_operator.reconcile.plan``)."""

    def plan(self, snapshot: Snapshot, *, config: OperatorConfig, now: datetime) -> Plan:
        """Return the plan for a snapshot."""

    def report(self, snapshot: Snapshot, *, reason: Reason, message: str, now: datetime) -> Plan:
        """Return a plan whose conditions report an error."""


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


@dataclass(kw_only=True)
class Reconciler:
    """See the module. ``jobs`` is everything that is remembered between two reconciles."""

    kube: Kube
    executor: PlanExecutor
    config: OperatorConfig
    planner: Planner
    metrics: PodMetrics
    clock: Callable[[], datetime] = utc_now
    job_metrics: JobMetrics = JOB_METRICS
    jobs: dict[Key, JobMemory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.job_metrics.read_from(self._samples)

    def invalidate(self, key: Key, kind: str, version: int | None) -> bool:
        """Mark a kind of a job as stale; return False if the last reconcile observed this version.

        version: as for ``SnapshotCache.invalidate``.
        """
        memory = self.jobs.get(key)
        return memory is None or memory.cache.invalidate(kind, version)

    def invalidate_all(self, key: Key) -> None:
        """Clear the cache of a job: its next reconcile reads everything."""
        if (memory := self.jobs.get(key)) is not None:
            memory.cache.clear()

    def knows(self, key: Key) -> bool:
        """Report whether a job has been reconciled since it was created or forgotten."""
        return key in self.jobs

    def make_due(self, key: Key) -> None:
        """Make the next reconcile of a job due at once, without reading anything again."""
        if (memory := self.jobs.get(key)) is not None:
            memory.cache.make_due()

    def fingerprints(self) -> Mapping[Key, int]:
        """Return the fingerprints of the reconciled jobs (``resync``)."""
        return {
            key: memory.fingerprint
            for key, memory in self.jobs.items()
            if memory.fingerprint is not None
        }

    def forget_all(self) -> None:
        """Forget all jobs."""
        for key in list(self.jobs):
            self._forget(key)

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile a job; return the seconds until the next reconcile, None if none is needed.

        Raises OperatorError.
        """
        cache = self.jobs.setdefault(key, JobMemory()).cache
        if (seconds := cache.not_due_for(time.monotonic())) > 0:
            return seconds
        now = self.clock()
        if (observed := await self._observe(key, now)) is None:
            self._forget(key)
            return None
        update, plan = observed
        snapshot, memory = update.snapshot, self.jobs[key]
        before = memory.fingerprint = fingerprint(snapshot)
        executed, writes = await self._execute(memory, key, update, plan, now)
        memory.fingerprint = fingerprint(update.snapshot)
        changed = bool(update.stale) or memory.fingerprint != before
        self._sample(key, snapshot.pods, executed.status)
        reason = ready_reason(executed.status)
        if changed or reason != ready_reason(snapshot.job.get("status", {})):
            logger.info("reconciled", extra={"reason": reason, "writes": writes})
        if executed is not plan:
            # The rejection has ended: the planned conditions are still to be written.
            memory.cache.clear()
            return 0.0
        return self._commit(memory, update, plan.requeue_after, changed=changed)

    async def _observe(self, key: Key, now: datetime) -> tuple[SnapshotUpdate, Plan] | None:
        """Return snapshot and plan, confirmed if necessary; None if the job does not exist."""
        cached, stale = self.jobs[key].cache.checkout()
        snapshot = await reader.read(
            self.kube,
            key,
            self.metrics,
            cached=None if cached is None else cached.snapshot,
            kinds=stale,
        )
        if snapshot is None:
            return None
        plan = self._plan(key, snapshot, now)
        unconfirmed = CONFIRMED_KINDS - stale
        if unconfirmed and self._needs_confirmation(key, snapshot, plan):
            snapshot = await reader.confirm(self.kube, key, snapshot, unconfirmed)
            if snapshot is None:
                return None
            plan = self._plan(key, snapshot, now)
        return SnapshotUpdate(snapshot=snapshot, cached=cached), plan

    def _plan(self, key: Key, snapshot: Snapshot, now: datetime) -> Plan:
        self._identify(key, snapshot.job)
        return self.planner.plan(snapshot, config=self.config, now=now)

    def _identify(self, key: Key, job: Object) -> None:
        """Record which job was read; the memory of an earlier job with this name is dropped."""
        uid = job["metadata"]["uid"]
        if self.jobs[key].uid not in ("", uid):
            self._forget(key)
            self.jobs[key] = JobMemory()
        self.jobs[key].uid = uid
        self.jobs[key].cache.observed(job)

    def _needs_confirmation(self, key: Key, snapshot: Snapshot, plan: Plan) -> bool:
        """Report whether the plan must not be executed on the basis of cached objects."""
        return needs_writes(snapshot, plan, self.jobs[key].applied) or reader.may_be_stale(snapshot)

    async def _execute(
        self, memory: JobMemory, key: Key, update: SnapshotUpdate, plan: Plan, now: datetime
    ) -> tuple[Plan, int]:
        """Execute a plan, or while writes are rejected, the plan that reports the rejection.

        Return the executed plan and the number of its writes. Raises OperatorError.
        """
        rejection = memory.rejection
        if rejection is not None and plan.actions:
            plan = self._with_rejection(update.snapshot, plan, rejection, now)
        try:
            writes = await self.executor.execute(
                update.snapshot, plan, now, applied=memory.applied, on_write=update.record
            )
        except Terminal as error:
            memory.rejection = error
            if rejection is None or _text(rejection) != _text(error):
                await self._report(key, error)
            raise
        memory.rejection = None
        return plan, writes

    def _commit(
        self,
        memory: JobMemory,
        update: SnapshotUpdate,
        requeue_after: float | None,
        *,
        changed: bool,
    ) -> float | None:
        """Cache the snapshot until the next reconcile; return the seconds until then, if any."""
        if requeue_after is None:
            memory.cache.clear()
            return None
        # The reconcile after a change is due at once, so that the ledger records the change.
        seconds = 0.0 if changed else FRESH_SHARE * requeue_after
        memory.cache.commit(update, due=time.monotonic() + seconds)
        return min(FOLLOW_UP_SECONDS, requeue_after) if changed else requeue_after

    def _with_rejection(
        self, snapshot: Snapshot, plan: Plan, error: Terminal, now: datetime
    ) -> Plan:
        """Return the plan with conditions and events that report the rejection."""
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        return replace(
            plan,
            status={
                **plan.status,
                **{name: report.status.get(name) for name in ("conditions", "summary", "eta")},
            },
            events=report.events,
        )

    async def _report(self, key: Key, error: Terminal) -> None:
        """Write a rejection into the status, based on a read that includes earlier writes."""
        snapshot = await reader.read(self.kube, key, self.metrics)
        if snapshot is None:
            return
        now = self.clock()
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        status_only = Plan(status=report.status, events=report.events)
        await self.executor.execute(snapshot, status_only, now, applied={})
        self._sample(key, snapshot.pods, report.status)

    def _forget(self, key: Key) -> None:
        self.metrics.forget(key)
        if (memory := self.jobs.pop(key, None)) is not None:
            self.job_metrics.account(memory.sample)

    def _sample(self, key: Key, pods: Iterable[Object], status: Object) -> None:
        memory = self.jobs[key]
        memory.sample = self.job_metrics.sample(memory.sample, key[0], pods, status)

    def _samples(self) -> Iterable[JobSample]:
        return [memory.sample for memory in self.jobs.values() if memory.sample is not None]


def _text(error: Terminal) -> tuple[str, str]:
    return error.reason, str(error)
