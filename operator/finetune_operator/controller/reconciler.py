"""The reconciler: observes one job, plans, and executes the plan.

The snapshot comes from the store. A plan that must not be executed on the basis of old information
(``confirmation``) is confirmed by a live read and planned again. After a conflict or an error, the
next reconcile reads everything live.

While the API server rejects a write of a job, the reconciler writes a status that reports the
rejection instead of the planned conditions. Otherwise the conditions would alternate with every
attempt.

A plan that reports the endpoint as ready waits until the first scrape of the serving pod ends.
Users then find the verification result as soon as the job is Ready, and it needs no write of its
own.
"""

import logging
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.controller import confirmation
from finetune_operator.controller.apply import PlanExecutor, is_unfenced
from finetune_operator.controller.confirmation import ALL_KINDS
from finetune_operator.controller.memory import JobMemory
from finetune_operator.controller.responses import Responses
from finetune_operator.kube.errors import Terminal
from finetune_operator.objects import status_view
from finetune_operator.objects.naming import revision_name
from finetune_operator.snapshot.reader import Reader, utc_now
from finetune_operator.telemetry import metrics
from finetune_operator.telemetry.job_metrics import JOB_METRICS, JobMetrics, JobSample
from finetune_operator.types import Key, Object, Plan, Snapshot

MOST_NEWS = 100
"""Changes of a job that are recorded between two reconciles: more than one reconcile can write, so
some remain when its own writes are removed. Users decide how many changes a job has."""

logger = logging.getLogger("finetune_operator.controller")


class Planner(Protocol):
    """The pure core (``finetune_operator.reconcile.plan``)."""

    def plan(self, snapshot: Snapshot, *, now: datetime) -> Plan:
        """Return the plan for a snapshot."""

    def report(self, snapshot: Snapshot, *, reason: Reason, message: str, now: datetime) -> Plan:
        """Return a plan whose conditions report an error."""


@dataclass(kw_only=True)
class Reconciler:
    """See the module. ``jobs`` is everything that is remembered between two reconciles."""

    reader: Reader
    executor: PlanExecutor
    planner: Planner
    clock: Callable[[], datetime] = utc_now
    job_metrics: JobMetrics = JOB_METRICS
    jobs: dict[Key, JobMemory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.job_metrics.read_from(self._samples)

    def changed(self, key: Key, kind: str, version: int) -> None:
        """Record that an object of a job, or its pods' metrics, changed: a reconcile is due."""
        memory = self.jobs.get(key)
        if memory is not None and len(memory.news) < MOST_NEWS:
            memory.news |= {(kind, version)}

    def distrust(self, key: Key, kinds: Set[str]) -> None:
        """Let the next reconcile of a job read some kinds live."""
        memory = self.jobs.setdefault(key, JobMemory())
        memory.live |= kinds

    def knows(self, key: Key) -> bool:
        """Report whether a job has been reconciled since it was created or forgotten."""
        return key in self.jobs

    def is_new(self, key: Key) -> bool:
        """Report whether no operator has ever reconciled a job."""
        job = self.reader.store.job(key)
        return job is not None and not status_view.of_job(job).conditions

    def forget_all(self) -> None:
        """Forget all jobs."""
        for key in list(self.jobs):
            self._forget(key)

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile a job; return the seconds until the next reconcile, None if none is needed.

        Raises OperatorError.
        """
        memory = self.jobs.setdefault(key, JobMemory())
        if (seconds := memory.not_due_for(time.monotonic())) > 0:
            return seconds
        try:
            return await self._reconcile(key)
        except BaseException:
            if key in self.jobs:
                self.distrust(key, ALL_KINDS)
            raise

    async def _reconcile(self, key: Key) -> float | None:
        now = self.clock()
        if (observed := await self.observe(key, now)) is None:
            self._forget(key)
            return None
        snapshot, plan = observed
        memory = self.jobs[key]
        waits = self.reader.metrics.verification_due(key)
        if waits > 0 and _starts_serving(snapshot.job, plan):
            return _commit(memory, waits)
        responses = Responses(memory=memory, store=self.reader.store)
        executed, writes = await self._execute(memory, key, snapshot, plan, now, responses)
        memory.news -= responses.own
        self._sample(key, snapshot.pods, executed.status)
        reason = status_view.of(executed.status).ready_reason
        if responses.changed or reason != status_view.of_job(snapshot.job).ready_reason:
            logger.info("reconciled", extra={"reason": reason, "writes": writes})
        if executed is not plan:
            # The rejection has ended: the planned conditions are still to be written.
            memory.due = 0.0
            return 0.0
        after = plan.requeue_after
        if after is not None:
            after = min(after, responses.follow_up)
        return _commit(memory, after)

    async def observe(self, key: Key, now: datetime) -> tuple[Snapshot, Plan] | None:
        """Return snapshot and plan, confirmed if necessary; None if the job does not exist."""
        memory = self.jobs.setdefault(key, JobMemory())
        live, names = memory.live, tuple(memory.unknown)
        memory.news, memory.live, memory.unknown = frozenset(), frozenset(), frozenset()
        confirmed = set(live)
        snapshot = await self.reader.read(key, live=live, names=names, created=memory.created)
        known: tuple[Snapshot, Plan] | None = None
        while snapshot is not None:
            self._identify(key, snapshot.job)
            if known is not None and known[0] == snapshot:
                # The live read has confirmed the snapshot, so the plan is the same.
                plan = known[1]
            else:
                plan = self.planner.plan(snapshot, now=now)
            known = snapshot, plan
            revision = status_view.of(plan.status).revision
            if revision and await self.reader.verify((key[0], revision_name(key[1], revision))):
                snapshot = await self.reader.read(key, created=memory.created)
                continue
            unfenced = is_unfenced(snapshot, plan, self.jobs[key].applied)
            needed = confirmation.of(snapshot, plan, unfenced=unfenced)
            unconfirmed = needed.kinds - confirmed
            if not unconfirmed:
                return snapshot, plan
            metrics.CACHE_CONFIRMATIONS.labels(needed.cause).inc()
            confirmed |= unconfirmed
            snapshot = await self.reader.read(key, live=unconfirmed, created=memory.created)
        return None

    def _identify(self, key: Key, job: Object) -> None:
        """Record which job was read; the memory of an earlier job with this name is dropped."""
        uid = job["metadata"]["uid"]
        if self.jobs[key].uid not in ("", uid):
            self._forget(key)
            self.jobs[key] = JobMemory()
        self.jobs[key].uid = uid

    async def _execute(
        self,
        memory: JobMemory,
        key: Key,
        snapshot: Snapshot,
        plan: Plan,
        now: datetime,
        responses: Responses,
    ) -> tuple[Plan, int]:
        """Execute a plan, or while writes are rejected, the plan that reports the rejection.

        Return the executed plan and the number of its writes. Raises OperatorError.
        """
        rejection = memory.rejection
        if rejection is not None and plan.actions:
            plan = self._with_rejection(snapshot, plan, rejection, now)
        try:
            writes = await self.executor.execute(
                snapshot,
                plan,
                now,
                applied=memory.applied,
                on_write=responses.record,
            )
        except Terminal as error:
            memory.rejection = error
            if rejection is None or _text(rejection) != _text(error):
                await self._report(key, error)
            raise
        memory.rejection = None
        return plan, writes

    def _with_rejection(
        self, snapshot: Snapshot, plan: Plan, error: Terminal, now: datetime
    ) -> Plan:
        """Return the plan with conditions and events that report the rejection."""
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        return replace(
            plan,
            status=status_view.with_report(plan.status, report.status),
            events=report.events,
        )

    async def _report(self, key: Key, error: Terminal) -> None:
        """Write a rejection into the status, based on a read that includes earlier writes."""
        snapshot = await self.reader.read(key, live=ALL_KINDS)
        if snapshot is None:
            return
        now, memory = self.clock(), self.jobs[key]
        report = self.planner.report(snapshot, reason=error.reason, message=str(error), now=now)
        status_only = Plan(status=report.status, events=report.events)
        responses = Responses(memory=memory, store=self.reader.store)
        await self.executor.execute(
            snapshot,
            status_only,
            now,
            applied={},
            on_write=responses.record,
        )
        self._sample(key, snapshot.pods, report.status)

    def _forget(self, key: Key) -> None:
        self.reader.forget(key)
        if (memory := self.jobs.pop(key, None)) is not None:
            self.job_metrics.account(memory.sample)

    def _sample(self, key: Key, pods: Iterable[Object], status: Object) -> None:
        memory = self.jobs[key]
        memory.sample = self.job_metrics.sample(memory.sample, key[0], pods, status)

    def _samples(self) -> Iterable[JobSample]:
        return [memory.sample for memory in self.jobs.values() if memory.sample is not None]


def _starts_serving(job: Object, plan: Plan) -> bool:
    """Report whether the status of a plan is the first one that reports the endpoint as ready."""
    before, after = status_view.of_job(job), status_view.of(plan.status)
    return after.ready_reason == Reason.SERVING != before.ready_reason


def _commit(memory: JobMemory, seconds: float | None) -> float | None:
    """Record that the next reconcile is due after some seconds, None if none is; return them.

    A write of our own queues the job, too, but is no news: nothing is due before.
    """
    memory.due = 0.0 if seconds is None else time.monotonic() + delays.FRESH_SHARE * seconds
    return seconds


def _text(error: Terminal) -> tuple[str, str]:
    return error.reason, str(error)
