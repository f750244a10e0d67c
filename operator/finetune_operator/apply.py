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
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_operator import fleet
from finetune_operator.children.names import owned_by
from finetune_operator.errors import Conflict, NameConflict
from finetune_operator.events import Recorder
from finetune_operator.kube import FIELD_MANAGER, Kube
from finetune_operator.state import (
    LISTS,
    Action,
    Apply,
    Create,
    Delete,
    Event,
    Object,
    Observed,
    Patch,
    Plan,
    Scale,
)

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Applier:
    """Writes what plans ask for, and remembers what it applied."""

    kube: Kube
    recorder: Recorder
    _applied: dict[str, dict[tuple[str, str], tuple[str, str]]] = field(default_factory=dict)
    """By the job's uid: kind and name → resourceVersion and digest of the intent."""

    async def apply(self, seen: Observed, plan: Plan, now: datetime) -> int:
        """Carry out a plan; return the number of writes, events not counted.

        Raises OperatorError; what was done before that stays done.
        """
        writes, events = 0, list(plan.events)
        if normal(plan.status) != normal(seen.job.get("status") or {}):
            await self.kube.replace_status(seen.job, normal(plan.status))
            fleet.wrote(seen, plan)
            writes += 1
        try:
            for action in plan.actions:
                writes += await self._act(seen, action, events)
        finally:
            # What the status says by now has happened, whatever became of the rest.
            if writes:
                await self.recorder.record(seen.job, events, now)
        return writes

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a job that is gone."""
        self._applied.pop(uid, None)

    async def _act(self, seen: Observed, action: Action, events: list[Event]) -> int:
        name = action.object["metadata"]["name"]
        extra = {"child": f"{action.object['kind']}/{name}"}
        match action:
            case Create():
                created = await self._create(seen, action.object)
                if created:
                    logger.info("created", extra=extra)
                return int(created)
            case Apply():
                applied = await self._apply(seen, action.object, events)
                if applied:
                    logger.info("applied", extra=extra)
                return int(applied)
            case Patch():
                _refuse_foreign(seen.job, action.object)
                await self.kube.merge(action.object, _fenced(action))
                logger.info("patched", extra=extra)
                return 1
            case Delete():
                _refuse_foreign(seen.job, action.object)
                self._known(seen.job).pop(_key(action.object), None)
                await self.kube.delete(action.object, propagation=action.propagation)
                logger.info("deleted", extra=extra)
                return 1
            case Scale():
                _refuse_foreign(seen.job, action.object)
                self._known(seen.job).pop(_key(action.object), None)
                await self.kube.scale(action.object, action.replicas)
                logger.info("scaled", extra={**extra, "replicas": action.replicas})
                return 1

    async def _create(self, seen: Observed, body: Object) -> bool:
        try:
            await self.kube.create(body)
        except Conflict:
            present = await self._get(body)
            if present is None:
                # 409 has other causes than the name, a quota being counted among them.
                raise
            _refuse_foreign(seen.job, present)
            return False
        return True

    async def _apply(self, seen: Observed, body: Object, events: list[Event]) -> bool:
        key = kind, name = _key(body)
        present = _observed(seen, kind, name) or await self._get(body)
        known = self._known(seen.job)
        intent = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        fence: dict[str, Any] = {}
        if present is not None:
            _refuse_foreign(seen.job, present)
            version = present["metadata"]["resourceVersion"]
            if known.get(key) == (version, intent):
                return False
            fence = {"uid": present["metadata"]["uid"], "resourceVersion": version}
        written = await self.kube.apply({**body, "metadata": {**body["metadata"], **fence}})
        changed = bool(written["metadata"]["resourceVersion"] != fence.get("resourceVersion"))
        if changed and known.get(key, ("", ""))[1] == intent:
            events.append(_put_right(kind, name, present))
        known[key] = (written["metadata"]["resourceVersion"], intent)
        return changed

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
    return Event(type="Warning", reason="ChildPutRight", message=message)


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


def _observed(seen: Observed, kind: str, name: str) -> Object | None:
    each: Object
    for each in getattr(seen, LISTS[kind]):
        if each["metadata"]["name"] == name:
            return each
    return None


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
