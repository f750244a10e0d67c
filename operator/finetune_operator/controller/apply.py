"""Executes a plan: first the status, then the actions in their order and meanwhile the events.

The status is written with the resourceVersion that was read. If this write is rejected, nothing
else of the plan is executed, so the ledger in the status is always ahead of the children. The
actions of a batch (``Plan.batches``) are independent of each other and executed at once. Every
other write has its own precondition: a create its deterministic name, an apply and a delete the uid
and resourceVersion that were read. An object that the reconciled object does not control is never
changed, except for a volume that a job may adopt. If an object to be created exists, it must have
the content that the operator would write; a Job with another content is known to the next plan.

An apply also removes the owners and the values that other clients added to the object. It is
skipped if the object is still in the version that the same apply produced, so neither a
resync nor a change of its status causes a write. If the same apply changes an object again, it
reverted changes made by another client, and an event reports that once.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Action, Apply, Create, Delete, Patch, Scale
from finetune_operator.controller.exact_apply import apply_exactly, fence, patched
from finetune_operator.controller.memory import Applied
from finetune_operator.controller.ownership import require_owned
from finetune_operator.kube.client import FIELD_MANAGER, Kube
from finetune_operator.kube.errors import Conflict, ContentConflict, Terminal
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects.contents import same_content, without_empty
from finetune_operator.objects.digest import sha256
from finetune_operator.objects.naming import has_exact_owners, may_adopt, owned_by
from finetune_operator.types import Event, Object, Observed, Plan

OnWrite = Callable[[Object, Object | None], None]
"""Takes the target of a write and the object in the response, None if there is none."""
AppliedVersions = dict[tuple[str, str], Applied]

logger = logging.getLogger("finetune_operator.apply")


def needs_writes(snapshot: Observed, plan: Plan, applied: AppliedVersions) -> bool:
    """Report whether the actions of a plan would write anything."""
    return any(
        not (isinstance(action, Apply) and is_applied(snapshot, action.object, applied))
        for action in plan.actions
    )


def writes_status(snapshot: Observed, plan: Plan) -> bool:
    """Report whether a plan changes the status."""
    return bool(without_empty(plan.status) != without_empty(snapshot.owner.get("status") or {}))


def is_unfenced(snapshot: Observed, plan: Plan, applied: AppliedVersions) -> bool:
    """Report whether a plan writes objects, and no status whose version the server compares."""
    return needs_writes(snapshot, plan, applied) and not writes_status(snapshot, plan)


def is_applied(snapshot: Observed, body: Object, applied: AppliedVersions) -> bool:
    """Report whether an object is in the version that applying ``body`` produced."""
    existing = _find(snapshot, body)
    if existing is None or not owned_by(snapshot.owner, existing):
        return False
    if not has_exact_owners(body, existing):
        return False
    labels, present = (side["metadata"].get("labels") or {} for side in (body, existing))
    return labels.items() <= present.items() and applied.get(_kind_and_name(body)) == Applied(
        _version(existing), sha256(body)
    )


@dataclass(frozen=True, kw_only=True)
class PlanExecutor:
    """Executes plans."""

    kube: Kube
    recorder: Recorder

    async def execute(
        self,
        snapshot: Observed,
        plan: Plan,
        now: datetime,
        *,
        applied: AppliedVersions,
        on_write: OnWrite = lambda target, written: None,
    ) -> int:
        """Execute a plan; return the number of writes, not counting events.

        applied: versions of earlier applies, which this updates. on_write: is called for
        each write. Raises OperatorError; writes before the error are not undone.
        """
        writes, events = 0, plan.events
        if writes_status(snapshot, plan):
            status = without_empty(plan.status)
            on_write(snapshot.owner, await self.kube.replace_status(snapshot.owner, status))
            writes += 1
        else:
            # Events report changes of the status, of which there are none.
            events = ()
        run = _Execution(self.kube, snapshot, applied, on_write)
        recording = asyncio.create_task(self.recorder.record(snapshot.owner, events, now))
        try:
            for batch in plan.batches():
                writes += await run.execute_all(batch)
        finally:
            # The status was written, so its events are recorded even if an action failed.
            await recording
            await self.recorder.record(snapshot.owner, run.drift, now)
        return writes


@dataclass(frozen=True)
class _Execution:
    """Executes the actions of one plan."""

    kube: Kube
    snapshot: Observed
    applied: AppliedVersions
    on_write: OnWrite
    drift: list[Event] = field(default_factory=list)
    """Events about children that were changed or deleted externally."""

    async def execute_all(self, batch: Sequence[Action]) -> int:
        """Execute independent actions at once; return the number of changes.

        All of them are executed, then the first error is raised.
        """
        results = await asyncio.gather(*map(self.execute, batch), return_exceptions=True)
        for action, result in zip(batch, results, strict=True):
            if isinstance(result, Terminal):
                result.rejected = action.object
            if isinstance(result, BaseException):
                raise result
        return sum(results)  # type: ignore[arg-type]

    async def execute(self, action: Action) -> int:
        """Execute an action; return the number of changes, 0 or 1."""
        kind, name = _kind_and_name(action.object)
        extra: dict[str, Any] = {"child": f"{kind}/{name}"}
        adopts = isinstance(action, Patch) and may_adopt(self.snapshot.owner, action.object)
        if not adopts and not isinstance(action, Create | Apply):
            require_owned(self.snapshot.owner, action.object)
        if isinstance(action, Delete | Scale):
            self.applied.pop((kind, name), None)
        match action:
            case Create():
                written, changed = await self._create(action.object)
                self.on_write(action.object, written)
                if changed:
                    logger.info("created", extra=extra)
                return int(changed)
            case Apply():
                if is_applied(self.snapshot, action.object, self.applied):
                    return 0
                written, changed = await self._apply(action.object)
                self.on_write(action.object, written)
                if changed:
                    logger.info("applied", extra=extra)
                return int(changed)
            case Patch():
                self.on_write(action.object, await patched(self.kube, action))
                logger.info("patched", extra=extra)
            case Delete():
                await self.kube.delete(action.object, propagation=action.propagation)
                self.on_write(action.object, None)
                logger.info("deleted", extra=extra)
            case Scale():
                await self.kube.scale(action.object, action.replicas)
                self.on_write(action.object, None)
                logger.info("scaled", extra={**extra, "replicas": action.replicas})
        return 1

    async def _create(self, body: Object) -> tuple[Object, bool]:
        """Create an object; return it, and whether it is new."""
        try:
            return await self.kube.create(body), True
        except Conflict:
            existing = await self._get(body)
            if existing is None:
                # 409 without such an object, such as a conflict while a quota is updated.
                raise
            require_owned(self.snapshot.owner, existing)
            if not same_content(body, existing):
                raise ContentConflict(existing) from None
            return existing, False

    async def _apply(self, body: Object) -> tuple[Object, bool]:
        """Apply an object; return it, and whether its version changed."""
        existing = _find(self.snapshot, body) or await self._get(body)
        if existing is not None:
            require_owned(self.snapshot.owner, existing)
        written = await apply_exactly(self.kube, body, existing)
        applied = Applied(_version(written), sha256(body))
        changed = existing is None or fence(written) != fence(existing)
        key = _kind_and_name(body)
        previous = self.applied.get(key)
        if changed and previous is not None and previous.digest == applied.digest:
            self.drift.append(_drift_corrected(*key, existing))
        self.applied[key] = applied
        return written, changed

    async def _get(self, body: Object) -> Object | None:
        metadata = body["metadata"]
        return await self.kube.get(body["kind"], metadata["namespace"], metadata["name"])


def _version(existing: Object) -> str:
    """Return the version of what a user may write of an object, as far as its kind has one.

    A change of the status does not change the generation; Services and claims have none.
    """
    metadata = existing["metadata"]
    return str(metadata.get("generation") or metadata["resourceVersion"])


def _kind_and_name(body: Object) -> tuple[str, str]:
    return body["kind"], body["metadata"]["name"]


def _drift_corrected(kind: str, name: str, existing: Object | None) -> Event:
    """Return the event about a child that was changed or deleted externally."""
    if existing is None:
        message = f"Re-created {kind} {name}, which was deleted externally."
    else:
        manager = _last_field_manager(existing)
        author = f"field manager {manager}" if manager else "another client"
        message = f"Reverted changes made to {kind} {name} by {author}."
    return Event(type="Warning", reason=Reason.DRIFT_CORRECTED, message=message)


def _last_field_manager(existing: Object) -> str | None:
    """Return the other field manager that changed the spec last, None if it is unknown."""
    entries = [
        entry
        for entry in existing["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    if not entries:
        return None
    return str(max(entries, key=lambda entry: str(entry.get("time", "")))["manager"])


def _find(snapshot: Observed, body: Object) -> Object | None:
    """Return the object of the snapshot with the kind and name of ``body``."""
    name = body["metadata"]["name"]
    present = snapshot.children(body["kind"])
    return next((child for child in present if child["metadata"]["name"] == name), None)
