"""Observed → Plan. Pure: no I/O, no clock, no environment.

A job goes through its Job stages in order (``stages``), then its model comes into service
(``rollout``); what serves meanwhile is kept (``upkeep``).
What was attempted and how it ended is in the ledger in ``status``; everything else is looked up
among the children. So an operator that restarts, or misses an event, does the same as one that
does not.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from finetune_api.defaulting import InvalidSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.manifests import network_policies, serving, vllm, volume
from finetune_operator.objects import naming
from finetune_operator.reconcile.conditions import (
    CONDITION_OF,
    Position,
    ServingState,
    conditions,
    latest_attempts,
)
from finetune_operator.reconcile.serving import gating
from finetune_operator.reconcile.serving.evaluation_gate import Gate
from finetune_operator.reconcile.serving.rollout import Rollout
from finetune_operator.reconcile.serving.stable import Upkeep
from finetune_operator.reconcile.serving.state import Served
from finetune_operator.reconcile.stages.download_progress import staging_status
from finetune_operator.reconcile.stages.pipeline import Stages
from finetune_operator.reconcile.stages.progress import training_status
from finetune_operator.revisions import retention
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import Chosen, choose, configmap
from finetune_operator.snapshot.verifier_metrics import verification_status
from finetune_operator.types import Action, Create, Event, Object, Observed, Plan

MOST_WARNINGS = 32
"""As many as the CRD takes."""


def plan(seen: Observed, *, config: OperatorConfig, now: datetime) -> Plan:
    """Return what to do about a job.

    now: the time of the look, timezone-aware; it dates transitions and measures deadlines.
    """
    if "deletionTimestamp" in seen.job["metadata"]:
        # The garbage collector deletes what the job owns; creating anything now would undo that.
        return Plan(status=seen.job.get("status", {}))
    try:
        chosen = choose(seen.job, seen.configmaps, config)
    except InvalidSpec as error:
        return report(seen, reason="InvalidSpec", message=str(error), now=now)
    ledger = Ledger(seen.job.get("status", {}).get("revisions", ()))
    ledger.want(chosen.revision)
    stages = Stages(seen, chosen, ledger, now)
    there = Served(seen, chosen, ledger)
    rollout, upkeep = Rollout(there, now), Upkeep(there, now)
    position = stages.position() or rollout.position()
    upkeep.tidy(position, rollout.actions)
    outdated = retention.tidy(seen, chosen, ledger, serves=there.build)
    served = upkeep.state()
    previous = seen.job.get("status", {}).get("conditions", [])
    current = conditions(
        position,
        previous=previous,
        generation=seen.job["metadata"]["generation"],
        now=now,
        stages=latest_attempts(ledger, chosen.revision, chosen.build, stages.wanted),
        serving=served,
        succeeded=_succeeded_before(seen, chosen.revision),
    )
    return Plan(
        status=_status(
            seen,
            chosen,
            ledger,
            current,
            served,
            gating.gate(seen.job, chosen, ledger, there.build),
            [*stages.warnings, *there.warnings],
        ),
        actions=(
            *stages.stopping.actions,
            *volume.owners(seen.job, chosen, seen.volumes),
            *_surroundings(seen, chosen, ledger, config),
            *stages.starts,
            *rollout.actions,
            *upkeep.actions,
            *outdated,
        ),
        events=(*_transitions(previous, current), *stages.events),
        requeue_after=position.requeue_after,
    )


def report(seen: Observed, *, reason: str, message: str, now: datetime) -> Plan:
    """Return a plan that says why nothing can be done: the status of before, but Stalled."""
    status = dict(seen.job.get("status", {}))
    generation = seen.job["metadata"]["generation"]
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


def _succeeded_before(seen: Observed, revision: str) -> bool:
    status = seen.job.get("status", {})
    return status.get("revision") == revision and any(
        (condition["type"], condition["status"]) == ("Succeeded", "True")
        for condition in status.get("conditions", ())
    )


def _surroundings(
    seen: Observed, chosen: Chosen, ledger: Ledger, config: OperatorConfig
) -> list[Action]:
    """Create what every stage needs, once a revision has started: policies and configuration.

    They are looked for on every look, and not only when the revision starts: without its
    ConfigMap no later pod could be mounted, and an upgrade would look like an edit.
    """
    if not ledger.revision(chosen.revision).stages:
        return []
    wanted = network_policies.ensure(seen.job, chosen, config, seen.networkpolicies)
    frozen = naming.revision_name(seen.job["metadata"]["name"], chosen.revision)
    if frozen not in _ours(seen, seen.configmaps):
        wanted.append(Create(object=configmap(seen.job, chosen)))
    return wanted


def _ours(seen: Observed, children: Iterable[Object]) -> set[str]:
    return {child["metadata"]["name"] for child in children if naming.owned_by(seen.job, child)}


def _status(
    seen: Observed,
    chosen: Chosen,
    ledger: Ledger,
    current: list[dict[str, Any]],
    served: ServingState | None,
    gate: Gate,
    warnings: list[str],
) -> dict[str, Any]:
    before = seen.job.get("status", {})
    known = before.get("warnings", []) if before.get("revision") == chosen.revision else []
    status: dict[str, Any] = {
        "observedGeneration": seen.job["metadata"]["generation"],
        "conditions": current,
        "revision": chosen.revision,
        "build": chosen.build,
        "warnings": list(dict.fromkeys([*known, *warnings]))[:MOST_WARNINGS],
        "staging": staging_status(seen, chosen.revision, ledger),
        # What it learns goes into the ledger, which is therefore read after it.
        "training": training_status(seen, chosen.revision, ledger),
        "revisions": ledger.to_status(),
    }
    trained = ledger.attempt(chosen.revision, "train")
    if trained is not None and trained.outcome == "Completed":
        status["evaluation"] = gate.to_status().model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
    if served is not None:
        status["serving"] = {
            "revision": served.revision,
            "build": served.build,
            "replicas": served.replicas,
            "availableReplicas": served.available_replicas,
            "selector": served.selector,
            "model": vllm.names(seen.job, chosen)[0],
        }
        status["verification"] = verification_status(seen, served.build)
        status["endpoint"] = serving.endpoint(seen.job)
    return status


def _transitions(before: list[Mapping[str, Any]], after: list[dict[str, Any]]) -> tuple[Event, ...]:
    """Return an event for each stage that has completed and each change of Ready's reason."""
    known = {condition["type"]: condition for condition in before}
    events = []
    for condition in after:
        type_, old = condition["type"], known.get(condition["type"], {})
        if type_ in CONDITION_OF.values() and condition["status"] == "True" != old.get("status"):
            events.append(Event(type="Normal", reason=type_, message=condition["message"]))
        if type_ == "Ready" and condition["reason"] != old.get("reason"):
            failed = any(found["type"] == "Stalled" for found in after)
            events.append(
                Event(
                    type="Warning" if failed else "Normal",
                    reason=condition["reason"],
                    message=condition["message"],
                )
            )
    return tuple(events)
