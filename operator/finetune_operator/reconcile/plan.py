"""Snapshot → plan. Pure: no I/O, no clock, no environment.

A job goes through its stages in order (``stages``); then its model is rolled out (``rollout``),
while the stable build continues to serve (``stable``). The ledger in ``status`` records what was
attempted and how it ended; the rest is read from the children. An operator that restarts or misses
an event therefore plans the same as one that does not.
"""

from datetime import datetime

from finetune_api.defaulting import InvalidSpec
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.config import OperatorConfig
from finetune_operator.objects import status_view
from finetune_operator.objects.index import IndexedSnapshot, index
from finetune_operator.objects.stages import desired
from finetune_operator.reconcile import images, policy, status, storage
from finetune_operator.reconcile.columns import summary
from finetune_operator.reconcile.conditions import (
    SEE_READY,
    Position,
    conditions,
    explained,
)
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.network import surroundings
from finetune_operator.reconcile.serving import rollout, stable
from finetune_operator.reconcile.serving.state import serving_build
from finetune_operator.reconcile.stages import pipeline, progress
from finetune_operator.revisions import retention
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision, resolve_target
from finetune_operator.revisions.versions import UnsupportedVersion
from finetune_operator.types import Plan, Snapshot


def plan(snapshot: Snapshot, *, config: OperatorConfig, now: datetime) -> Plan:
    """Return the plan of a reconcile of a job.

    now: timezone-aware; it dates transitions and measures deadlines.
    """
    if "deletionTimestamp" in snapshot.job["metadata"]:
        # The garbage collector deletes what the job owns; creating anything now would undo that.
        return Plan(status=snapshot.job.get("status", {}))
    try:
        found = index(snapshot)
        ledger = Ledger.parse(found.previous.ledger, found.previous.ledger_version)
        target = resolve_target(snapshot.job, ledger, config)
        return _plan(found, target, ledger.with_target(target.revision), config, now)
    except InvalidSpec as error:
        return report(snapshot, reason=Reason.INVALID_SPEC, message=str(error), now=now)
    except UnsupportedVersion as error:
        return report(snapshot, reason=Reason.UNSUPPORTED_VERSION, message=str(error), now=now)


def report(snapshot: Snapshot, *, reason: Reason, message: str, now: datetime) -> Plan:
    """Return a plan that only reports why nothing can be done: the previous status, Stalled."""
    present = snapshot.job.get("status", {})
    generation = snapshot.job["metadata"]["generation"]
    previous = status_view.of_job(snapshot.job).conditions
    stalled = conditions(
        Position(
            state="failed" if reason == Reason.INVALID_SPEC else "stalled",
            reason=reason,
            message=message,
        ),
        previous=previous,
        generation=generation,
        now=now,
        stages={},
        serving=None,
        succeeded=False,
    )
    reported = [
        new
        for new in stalled
        if new["type"] in ("Ready", "Finished", "Stalled") or new["type"] not in previous
    ]
    replaced = {new["type"] for new in reported} | {"Reconciling"}
    # A condition that referred to the previous message of Ready gets that message.
    before = {SEE_READY: previous["Ready"]["message"]} if "Ready" in previous else {}
    reported += [
        {**old, "message": before.get(old["message"], old["message"])}
        for type_, old in previous.items()
        if type_ not in replaced
    ]
    return Plan(
        status={
            **present,
            "observedGeneration": generation,
            "conditions": reported,
            "summary": summary(message),
            "eta": None,
        },
        events=status.transitions(previous, reported),
    )


def _plan(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    config: OperatorConfig,
    now: datetime,
) -> Plan:
    """Return the plan of a job whose target and ledger are known.

    Each part starts from the ledger of the part before it.
    """
    # 1. What is there: restored volumes, the build that serves, the limits that the spec exceeds.
    ledger = storage.with_restored(snapshot, ledger)
    serving = serving_build(snapshot, ledger)
    refused = policy.check(target, config.policy)

    # 2. The stages of the target revision; once all have completed, the rollout of its build.
    stages = pipeline.decide(snapshot, target, ledger, policy.refusal(refused), now)
    if stages.position is None:
        candidate = rollout.decide(snapshot, target, stages.ledger, serving, refused, now)
    else:
        unchanged = Decision(ledger=stages.ledger)
        candidate = rollout.Rollout(decision=unchanged, position=stages.position)

    # 3. The build that serves meanwhile, and the GPU that it may release.
    kept = stable.decide(snapshot, target, serving, refused, candidate, now)
    position = explained(candidate.position, kept.note)

    # 4. What the ledger learns from the pods, and which revisions it forgets.
    identified = images.with_serving(snapshot, kept.decision.ledger)
    moved = images.warnings(ledger, identified, target)
    ledger, pruned = retention.prune(
        snapshot,
        target,
        identified,
        serving=serving,
        awaits_volume=position.reason == Reason.WAITING_FOR_VOLUME,
    )
    measured = progress.measure(snapshot, target, ledger)
    ledger = progress.with_gpu_seconds(snapshot, target, ledger, measured, now)
    ledger = ledger.with_card(target.revision, progress.checkpoint_card(snapshot, target, ledger))

    # 5. The status.
    current = conditions(
        position,
        previous=snapshot.previous.conditions,
        generation=snapshot.job["metadata"]["generation"],
        now=now,
        stages={
            stage: ledger.latest(target.revision, stage, target.build)
            for stage in desired(target.resolved.spec)
        },
        serving=kept.state,
        succeeded=_succeeded_before(snapshot, target.revision),
    )
    rendered = status.render(
        snapshot,
        target,
        ledger,
        position,
        conditions=current,
        served=kept.state,
        serving=serving,
        warnings=(
            *stages.warnings,
            *candidate.decision.warnings,
            *kept.decision.warnings,
            *moved,
        ),
        measured=measured,
    )

    # 6. The actions, in the order in which they are executed.
    return Plan(
        status=rendered,
        actions=(
            *stages.stops,
            *storage.owners(snapshot.job, target, snapshot.volumes),
            *surroundings(snapshot, target, ledger, config),
            *stages.actions,
            *candidate.decision.actions,
            *kept.decision.actions,
            *pruned,
        ),
        events=(
            *status.transitions(snapshot.previous.conditions, current),
            *status.new_warnings(snapshot.previous, target.revision, rendered["warnings"]),
            *stages.events,
            *kept.decision.events,
        ),
        requeue_after=position.requeue_after,
    )


def _succeeded_before(snapshot: IndexedSnapshot, revision: str) -> bool:
    succeeded = snapshot.previous.conditions.get("Succeeded", {})
    return snapshot.previous.is_about(revision) and succeeded.get("status") == "True"
