"""The steps of a plan, in order; each part starts from the ledger of the part before it."""

from dataclasses import replace
from datetime import datetime

from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import policy, storage
from finetune_operator.reconcile.network import surroundings
from finetune_operator.reconcile.publishing import step as publish
from finetune_operator.reconcile.record import record
from finetune_operator.reconcile.reporting import status, transitions
from finetune_operator.reconcile.serving import delivery as serving
from finetune_operator.reconcile.stages import pipeline
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import SelectedProfile
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Plan


def steps(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    profile: SelectedProfile,
    now: datetime,
) -> Plan:
    """Return the plan of a job whose target and ledger are known. profile: with the settings."""
    # 1. What exists: restored volumes; the limits that the spec exceeds.
    before = storage.with_restored(snapshot, ledger)
    violations = policy.check(target, profile)

    # 2. The stages that produce the model.
    refused = policy.held(snapshot, target, before, violations)
    stages = pipeline.decide(snapshot, target, before, refused, now)

    # 3. The rollout of the model, the build that serves meanwhile, the GPU that it may release.
    delivery = serving.decide(snapshot, target, stages, violations, now)

    # 4. The targets outside of the cluster that get the model.
    held = refused or policy.awaited(target)
    publishing = publish.decide(snapshot, target, stages.position, delivery, held, now)

    # 5. What the ledger learns from the pods, and which revisions it forgets.
    ledger = publishing.decision.ledger
    recorded = record(snapshot, target, before, ledger, delivery, now)

    # 6. The status, and its changes as events.
    awaited = policy.awaited(target, delivery.position)
    if awaited is not None:
        delivery = replace(delivery, position=replace(awaited, meanwhile=delivery.position))
    rendered = status.render(
        snapshot,
        target,
        delivery,
        recorded,
        publishing,
        warnings=(
            *stages.warnings,
            *delivery.decision.warnings,
            *publishing.decision.warnings,
            *recorded.warnings,
        ),
        now=now,
    )
    changes = transitions.events(snapshot.previous, rendered)

    # 7. The actions, in the order in which they are executed.
    return Plan(
        status=rendered,
        actions=(
            *stages.stops,
            *publishing.decision.stops,
            *storage.owners(snapshot.job, target, snapshot.volumes),
            *surroundings(snapshot, target, recorded.ledger, profile.settings, now),
            *stages.actions,
            *delivery.decision.actions,
            *recorded.actions,
            # Last: a rejected publish Job must keep nothing else from being done.
            *publishing.decision.actions,
        ),
        events=(
            *changes,
            *stages.events,
            *delivery.decision.events,
            *publishing.decision.events,
        ),
        requeue_after=_earliest(
            delivery.position.requeue_after, delivery.requeue_after, publishing.requeue_after
        ),
        reservation=stages.reservation,
        serving_gpus=delivery.gpus,
    )


def _earliest(*delays: float | None) -> float | None:
    """Return the shortest of the delays that are set; None if none is."""
    return min((delay for delay in delays if delay is not None), default=None)
