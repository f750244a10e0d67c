"""Observed → Plan. Pure: no I/O, no clock, no environment.

A job goes through its Job stages in order (``stages``), then its model comes into service
(``rollout``); what serves meanwhile is kept (``upkeep``).
What was attempted and how it ended is in the ledger in ``status``; everything else is looked up
among the children. So an operator that restarts, or misses an event, does the same as one that
does not.
"""

from datetime import datetime

from finetune_api.defaulting import InvalidSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import OperatorConfig
from finetune_operator.reconcile import storage
from finetune_operator.reconcile.conditions import (
    Position,
    conditions,
    latest_attempts,
)
from finetune_operator.reconcile.network import _surroundings
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.reconcile.serving.rollout import Rollout
from finetune_operator.reconcile.serving.stable import Upkeep
from finetune_operator.reconcile.serving.state import Served
from finetune_operator.reconcile.stages.pipeline import Stages
from finetune_operator.reconcile.status import _status, _transitions
from finetune_operator.revisions import retention
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import resolve_target
from finetune_operator.types import Plan, Snapshot


def plan(snapshot: Snapshot, *, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do about a job.

    now: the time of the look, timezone-aware; it dates transitions and measures deadlines.
    """
    if "deletionTimestamp" in snapshot.job["metadata"]:
        # The garbage collector deletes what the job owns; creating anything now would undo that.
        return Plan(status=snapshot.job.get("status", {}))
    try:
        target = resolve_target(snapshot.job, snapshot.configmaps, config)
    except InvalidSpec as error:
        return report(snapshot, reason=Reason.INVALID_SPEC, message=str(error), now=now)
    ledger = Ledger(snapshot.job.get("status", {}).get("revisions", ()))
    ledger.want(target.revision)
    stages = Stages(snapshot, target, ledger, now)
    there = Served(snapshot, target, ledger)
    rollout, upkeep = Rollout(there, now), Upkeep(there, now)
    position = stages.position() or rollout.position()
    upkeep.tidy(position, rollout.actions)
    outdated = retention.tidy(snapshot, target, ledger, serves=there.build)
    served = upkeep.state()
    previous = snapshot.job.get("status", {}).get("conditions", [])
    current = conditions(
        position,
        previous=previous,
        generation=snapshot.job["metadata"]["generation"],
        now=now,
        stages=latest_attempts(ledger, target.revision, target.build, stages.wanted),
        serving=served,
        succeeded=_succeeded_before(snapshot, target.revision),
    )
    return Plan(
        status=_status(
            snapshot,
            target,
            ledger,
            current,
            served,
            evaluation_gate.gate(snapshot.job, target, ledger, there.build),
            [*stages.warnings, *there.warnings],
        ),
        actions=(
            *stages.stopping.actions,
            *storage.owners(snapshot.job, target, snapshot.volumes),
            *_surroundings(snapshot, target, ledger, config),
            *stages.starts,
            *rollout.actions,
            *upkeep.actions,
            *outdated,
        ),
        events=(*_transitions(previous, current), *stages.events),
        requeue_after=position.requeue_after,
    )


def report(snapshot: Snapshot, *, reason: str, message: str, now: datetime) -> Plan:
    """Return a plan that says why nothing can be done: the status of before, but Stalled."""
    status = dict(snapshot.job.get("status", {}))
    generation = snapshot.job["metadata"]["generation"]
    previous = status.get("conditions", [])
    stalled = conditions(
        Position(state="stalled", reason=reason, message=message),
        previous=previous,
        generation=generation,
        now=now,
        stages={},
        serving=None,
        succeeded=False,
    )
    known = {condition["type"] for condition in previous}
    told = [
        new for new in stalled if new["type"] in ("Ready", "Stalled") or new["type"] not in known
    ]
    kept = {new["type"] for new in told} | {"Reconciling"}
    told += [old for old in previous if old["type"] not in kept]
    status |= {"observedGeneration": generation, "conditions": told}
    return Plan(status=status, events=_transitions(previous, status["conditions"]))


def _succeeded_before(snapshot: Snapshot, revision: str) -> bool:
    status = snapshot.job.get("status", {})
    return status.get("revision") == revision and any(
        (condition["type"], condition["status"]) == ("Succeeded", "True")
        for condition in status.get("conditions", ())
    )
