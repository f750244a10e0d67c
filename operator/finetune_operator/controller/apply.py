"""Carrying out a plan: the status first, then the actions in their order, then the events.

The status is written with the resourceVersion that was observed. Where that is refused nothing of
the plan happens, so what the ledger says is always ahead of what exists. Every other write carries
its own fence: a create its deterministic name, an apply and a delete the uid and resourceVersion
that were observed. An object that is not controlled by the job is never changed.

An apply that would say again what was last applied to an object that nobody changed since is left
out: a resync makes no writes. One that says it again and changes something has put right what
somebody did by hand; an event says so, once.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube.client import FIELD_MANAGER, Kube
from finetune_operator.kube.errors import Conflict, NameConflict
from finetune_operator.kube.recorder import Recorder
from finetune_operator.objects.naming import owned_by
from finetune_operator.telemetry import job_metrics
from finetune_operator.types import (
    LISTS,
    Action,
    Apply,
    Create,
    Delete,
    Event,
    Object,
    Patch,
    Plan,
    Scale,
    Snapshot,
)

Wrote = Callable[[str, Object | None], None]
"""Takes the kind of what was written, and what there is now; None where no answer told that."""

logger = logging.getLogger(__name__)


def _nobody(kind: str, answer: Object | None) -> None:
    """Take note of nothing."""


@dataclass(kw_only=True)
class PlanExecutor:
    """Writes what plans ask for, and remembers what it applied."""

    kube: Kube
    recorder: Recorder
    _applied: dict[str, dict[tuple[str, str], tuple[str, str]]] = field(default_factory=dict)
    """By the job's uid: kind and name → resourceVersion and digest of the intent."""

    def acts(self, snapshot: Snapshot, plan: Plan) -> bool:
        """Tell whether a plan asks for more than what is as it should be, its status aside."""
        return any(
            not (isinstance(action, Apply) and self._stands(snapshot, action.object))
            for action in plan.actions
        )

    async def apply(
        self, snapshot: Snapshot, plan: Plan, now: datetime, wrote: Wrote = _nobody
    ) -> int:
        """Carry out a plan; return the number of writes, events not counted.

        ``wrote`` is told of each of them. Raises OperatorError; what was done before that stays
        done.
        """
        writes, events = 0, list(plan.events)
        if normal(plan.status) != normal(snapshot.job.get("status") or {}):
            answer = await self.kube.replace_status(snapshot.job, normal(plan.status))
            wrote(snapshot.job["kind"], answer)
            job_metrics.wrote(snapshot, plan)
            writes += 1
        try:
            for action in plan.actions:
                writes += await self._act(snapshot, action, wrote, events)
        finally:
            # What the status says by now has happened, whatever became of the rest.
            if writes:
                await self.recorder.record(snapshot.job, events, now)
        return writes

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a job that is gone."""
        self._applied.pop(uid, None)

    async def _act(
        self, snapshot: Snapshot, action: Action, wrote: Wrote, events: list[Event]
    ) -> int:
        kind, name = action.object["kind"], action.object["metadata"]["name"]
        extra = {"child": f"{kind}/{name}"}
        if not isinstance(action, Create | Apply):
            _refuse_foreign(snapshot.job, action.object)
        if isinstance(action, Delete | Scale):
            self._known(snapshot.job).pop(_key(action.object), None)
        match action:
            case Create():
                answer, changed = await self._create(snapshot, action.object)
                wrote(kind, answer)
                if changed:
                    logger.info("created", extra=extra)
                return int(changed)
            case Apply():
                if self._stands(snapshot, action.object):
                    return 0
                answer, changed = await self._apply(snapshot, action.object, events)
                wrote(kind, answer)
                if changed:
                    logger.info("applied", extra=extra)
                return int(changed)
            case Patch():
                wrote(kind, await self.kube.merge(action.object, _fenced(action)))
                logger.info("patched", extra=extra)
            case Delete():
                await self.kube.delete(action.object, propagation=action.propagation)
                wrote(kind, None)
                logger.info("deleted", extra=extra)
            case Scale():
                await self.kube.scale(action.object, action.replicas)
                wrote(kind, None)
                logger.info("scaled", extra={**extra, "replicas": action.replicas})
        return 1

    async def _create(self, snapshot: Snapshot, body: Object) -> tuple[Object, bool]:
        """Create an object; return what there is now, and whether it was not there before."""
        try:
            return await self.kube.create(body), True
        except Conflict:
            present = await self._get(body)
            if present is None:
                # 409 has other causes than the name, a quota being counted among them.
                raise
            _refuse_foreign(snapshot.job, present)
            return present, False

    async def _apply(
        self, snapshot: Snapshot, body: Object, events: list[Event]
    ) -> tuple[Object, bool]:
        """Apply an object; return what there is now, and whether that is another version."""
        present = _observed(snapshot, body) or await self._get(body)
        fence: dict[str, Any] = {}
        if present is not None:
            _refuse_foreign(snapshot.job, present)
            fence = {key: present["metadata"][key] for key in ("uid", "resourceVersion")}
        written = await self.kube.apply({**body, "metadata": {**body["metadata"], **fence}})
        version, intent = written["metadata"]["resourceVersion"], _digest(body)
        changed = bool(version != fence.get("resourceVersion"))
        known, key = self._known(snapshot.job), _key(body)
        if changed and known.get(key, ("", ""))[1] == intent:
            events.append(_put_right(*key, present))
        known[key] = (version, intent)
        return written, changed

    def _stands(self, snapshot: Snapshot, body: Object) -> bool:
        """Tell whether an object is in the version that came of applying this same intent."""
        present = _observed(snapshot, body)
        if present is None or not owned_by(snapshot.job, present):
            return False
        stands = (present["metadata"]["resourceVersion"], _digest(body))
        return self._known(snapshot.job).get(_key(body)) == stands

    def _known(self, job: Object) -> dict[tuple[str, str], tuple[str, str]]:
        return self._applied.setdefault(job["metadata"]["uid"], {})

    async def _get(self, body: Object) -> Object | None:
        metadata = body["metadata"]
        return await self.kube.get(body["kind"], metadata["namespace"], metadata["name"])


def normal(value: Any) -> Any:
    """Return a status without its nulls and empty groups: the API server drops or keeps them."""
    if isinstance(value, Mapping):
        items = ((key, normal(each)) for key, each in value.items())
        return {key: each for key, each in items if each is not None and each != {}}
    if isinstance(value, (list, tuple)):
        return [normal(each) for each in value]
    return value


def _key(body: Object) -> tuple[str, str]:
    return body["kind"], body["metadata"]["name"]


def _put_right(kind: str, name: str, present: Object | None) -> Event:
    """Return what to say of a child that was changed or deleted by somebody else."""
    if present is None:
        message = f"{kind} {name} was deleted by somebody else; it is made again"
    else:
        message = f"{kind} {name} was changed by {_last_writer(present)}; it is put right"
    return Event(type="Warning", reason=Reason.DRIFT_CORRECTED, message=message)


def _last_writer(present: Object) -> str:
    """Return the name under which somebody else last wrote into the spec."""
    entries = [
        each
        for each in present["metadata"].get("managedFields") or ()
        if each.get("manager") != FIELD_MANAGER and "f:spec" in (each.get("fieldsV1") or {})
    ]
    if not entries:
        return "somebody else"
    return str(max(entries, key=lambda each: str(each.get("time", "")))["manager"])


def _observed(snapshot: Snapshot, body: Object) -> Object | None:
    each: Object
    for each in getattr(snapshot, LISTS[body["kind"]]):
        if each["metadata"]["name"] == body["metadata"]["name"]:
            return each
    return None


def _digest(body: Object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _fenced(patch: Patch) -> Object:
    """Return the changes of a patch with what keeps them from any other object or version."""
    metadata = patch.object["metadata"]
    fence = {key: metadata[key] for key in ("uid", "resourceVersion")}
    return {**patch.changes, "metadata": {**patch.changes.get("metadata", {}), **fence}}


def _refuse_foreign(job: Object, present: Object) -> None:
    if not owned_by(job, present):
        kind, name = present["kind"], present["metadata"]["name"]
        raise NameConflict(
            f"{kind} {name} exists and is not this job's (it has no controller reference to uid "
            f"{job['metadata']['uid']}); delete or rename it, or give the job another name"
        )
