"""The reconciler of one of our own kinds: observes an object, plans, and executes the plan.

It knows no kind (``kind``): a reader makes the snapshot, a planner decides, ``Telemetry`` counts.

The snapshot comes from the store. A plan that must not be executed on the basis of old information
(``Planner.confirmation``) is confirmed by a live read and planned again. After a conflict or an
error, the next reconcile reads everything live.

While the API server rejects a write for an object, the reconciler writes a status that reports the
rejection instead of the planned conditions. Otherwise the conditions would alternate with every
attempt.
"""

import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic

from finetune_operator import delays
from finetune_operator.controller.apply import AppliedVersions, PlanExecutor, is_unfenced
from finetune_operator.controller.kind import Planner, Reader, S, Telemetry
from finetune_operator.controller.memory import Memory
from finetune_operator.controller.responses import Responses
from finetune_operator.kube.errors import Conflict, ContentConflict, Terminal
from finetune_operator.objects import conditions
from finetune_operator.snapshot.store import ObjectStore
from finetune_operator.telemetry import metrics
from finetune_operator.types import Confirmation, Key, Object, Plan

MOST_NEWS = 100
"""Changes of an object that are recorded between two reconciles: more than one reconcile can write,
so some remain when its own writes are removed. Users decide how many changes an object has."""

MOST_COMPLETIONS = 10
"""Times that a reconcile plans again because its snapshot lacked something; a plan needs two."""

logger = logging.getLogger("finetune_operator.controller")


@dataclass(kw_only=True)
class Reconciler(Generic[S]):
    """``memories`` is everything that it remembers between two reconciles of an object."""

    store: ObjectStore
    reader: Reader[S]
    executor: PlanExecutor
    planner: Planner[S]
    telemetry: Telemetry[S]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    memories: dict[Key, Memory] = field(default_factory=dict)

    def changed(self, key: Key, kind: str, version: int) -> None:
        """Record that an object, or the metrics of a pod, changed: a reconcile is due."""
        memory = self.memories.get(key)
        if memory is not None and len(memory.news) < MOST_NEWS:
            memory.news |= {(kind, version)}

    def distrust(self, key: Key, kinds: Set[str]) -> None:
        """Let the next reconcile read some kinds live."""
        memory = self.memories.setdefault(key, Memory())
        memory.live |= kinds

    def knows(self, key: Key) -> bool:
        """Report whether an object has been reconciled since it was created or forgotten."""
        return key in self.memories

    def is_new(self, key: Key) -> bool:
        """Report whether no operator has ever reconciled an object."""
        owner = self.store.owner(key)
        return owner is not None and not conditions.get(owner, "Ready")

    def forget_all(self) -> None:
        """Forget all objects."""
        for key in list(self.memories):
            self._forget(key)

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile an object; return the seconds until the next reconcile, None if none is needed.

        Raises OperatorError.
        """
        memory = self.memories.setdefault(key, Memory())
        if (seconds := memory.not_due_for(time.monotonic())) > 0:
            return seconds
        try:
            return await self._reconcile(key)
        except BaseException:
            if key in self.memories:
                self.distrust(key, self.store.watches.kinds)
            raise

    async def _reconcile(self, key: Key) -> float | None:
        now = self.clock()
        if (observed := await self.observe(key, now)) is None:
            self._forget(key)
            return None
        snapshot, plan = observed
        memory = self.memories[key]
        if (seconds := self.reader.wait(key, snapshot, plan)) > 0:
            return _commit(memory, seconds)
        responses = Responses(memory=memory, store=self.store)
        executed, writes = await self._execute(memory, key, snapshot, plan, now, responses)
        memory.news -= responses.own
        self.telemetry.observed(key, snapshot, executed.status)
        reason = _ready_reason({"status": executed.status})
        if responses.changed or reason != _ready_reason(snapshot.owner):
            logger.info("reconciled", extra={"reason": reason, "writes": writes})
        if executed is not plan:
            # The rejection has ended: the planned conditions are still to be written.
            memory.due = 0.0
            return 0.0
        after = plan.requeue_after
        if after is not None:
            after = min(after, responses.follow_up)
        return _commit(memory, after)

    async def observe(self, key: Key, now: datetime) -> tuple[S, Plan] | None:
        """Return snapshot and plan, confirmed if necessary; None if the object does not exist."""
        memory = self.memories.setdefault(key, Memory())
        live, names = memory.live, tuple(memory.unknown)
        memory.news, memory.live, memory.unknown = frozenset(), frozenset(), frozenset()
        confirmed = set(live)
        snapshot = await self.reader.read(key, live=live, names=names, created=memory.created)
        previous: tuple[S, Plan] | None = None
        completed = 0
        while snapshot is not None:
            self._identify(key, snapshot.owner)
            if previous is not None and previous[0] == snapshot:
                # The live read has confirmed the snapshot, so the plan is the same.
                plan = previous[1]
            else:
                plan = self.planner.plan(snapshot, now=now)
            previous = snapshot, plan
            if completed < MOST_COMPLETIONS and await self.reader.complete(key, plan):
                completed += 1
                snapshot = await self.reader.read(key, created=memory.created)
                continue
            needed = self._confirmation(snapshot, plan, self.memories[key])
            unconfirmed = needed.kinds - confirmed
            if not unconfirmed:
                return snapshot, plan
            metrics.CACHE_CONFIRMATIONS.labels(needed.cause).inc()
            confirmed |= unconfirmed
            snapshot = await self.reader.read(key, live=unconfirmed, created=memory.created)
        return None

    def _confirmation(self, snapshot: S, plan: Plan, memory: Memory) -> Confirmation:
        """Return the live read that a plan needs.

        The write of a status fails if the object has changed; without one, the object is read.
        """
        needed = self.planner.confirmation(snapshot, plan)
        if not is_unfenced(snapshot, plan, memory.applied):
            return needed
        own = self.store.watches.own
        return Confirmation(needed.cause or "owner", needed.kinds | {own})

    def _identify(self, key: Key, owner: Object) -> None:
        """Record what was read; the memory of an earlier object with this name is dropped."""
        uid = owner["metadata"]["uid"]
        if self.memories[key].uid not in ("", uid):
            self._forget(key)
            self.memories[key] = Memory()
        self.memories[key].uid = uid

    async def _execute(
        self,
        memory: Memory,
        key: Key,
        snapshot: S,
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
            writes = await self._write(snapshot, plan, now, memory.applied, responses)
        except Terminal as error:
            if isinstance(error, ContentConflict) and memory.has_found(error):
                # The next plan replaces it if the ledger does not know it.
                raise Conflict(str(error)) from error
            memory.rejection = error
            if rejection is None or _text(rejection) != _text(error):
                await self._report(key, error)
            raise
        memory.rejection = None
        return plan, writes

    async def _write(
        self,
        snapshot: S,
        plan: Plan,
        now: datetime,
        applied: AppliedVersions,
        responses: Responses,
    ) -> int:
        """Execute a plan; return the number of its writes. Raises OperatorError."""

        def record(target: Object, written: Object | None) -> None:
            responses.record(target, written)
            if target["kind"] == self.store.watches.own:
                self.telemetry.written(snapshot, plan)

        return await self.executor.execute(snapshot, plan, now, applied=applied, on_write=record)

    def _with_rejection(self, snapshot: S, plan: Plan, error: Terminal, now: datetime) -> Plan:
        """Return the plan with conditions and events that report the rejection."""
        report = self.planner.report(
            snapshot,
            reason=error.reason,
            message=str(error),
            now=now,
            planned=plan.status,
            rejected=error.rejected,
        )
        return replace(plan, status=report.status, events=report.events)

    async def _report(self, key: Key, error: Terminal) -> None:
        """Write a rejection into the status, based on a read that includes earlier writes."""
        snapshot = await self.reader.read(key, live=self.store.watches.kinds)
        if snapshot is None:
            return
        now = self.clock()
        report = self.planner.report(
            snapshot,
            reason=error.reason,
            message=str(error),
            now=now,
            rejected=error.rejected,
        )
        responses = Responses(memory=self.memories[key], store=self.store)
        status_only = Plan(status=report.status, events=report.events)
        await self._write(snapshot, status_only, now, {}, responses)
        self.telemetry.observed(key, snapshot, report.status)

    def _forget(self, key: Key) -> None:
        self.reader.forget(key)
        self.telemetry.forget(key)
        self.memories.pop(key, None)


def _ready_reason(body: Object) -> str:
    """Return the reason of an object's condition Ready, Unknown if it is missing."""
    return str(conditions.get(body, "Ready").get("reason", "Unknown"))


def _commit(memory: Memory, seconds: float | None) -> float | None:
    """Record that the next reconcile is due after some seconds, None if none is; return them.

    A write of our own queues the object, too, but is no news: nothing is due before.
    """
    memory.due = 0.0 if seconds is None else time.monotonic() + delays.FRESH_SHARE * seconds
    return seconds


def _text(error: Terminal) -> tuple[str, str]:
    return error.reason, str(error)
