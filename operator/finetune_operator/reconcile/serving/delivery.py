"""The delivery of a model: the rollout of its build, and the build that serves meanwhile."""

from dataclasses import dataclass
from datetime import datetime

from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.conditions import Position, ServingState, explained
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.policy import Violations
from finetune_operator.reconcile.serving import allowance, idle, rollout, shared, stable
from finetune_operator.reconcile.serving.allowance import Allowance
from finetune_operator.reconcile.serving.candidate import Rollout
from finetune_operator.reconcile.serving.idle import IdleState
from finetune_operator.reconcile.serving.state import endpoint_of, replicas, serving_build
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The decision about everything that serves."""

    decision: Decision
    position: Position
    """Of the job, now that its stages and its serving pods are known."""

    serving: str | None
    """The build that the Service selects, if any."""

    state: ServingState | None
    """None if nothing is meant to serve."""

    requeue_after: float | None
    """Seconds until the next reconcile that the requests of the serving build need."""

    gpus: int | None = None
    """GPUs that must be granted before the endpoint can have more pods."""

    is_offered: bool = False
    """Whether a FineTuneEndpoint may serve the target, whose adapter is published."""

    awaits_publication: bool = False
    """Whether the position waits until the adapter is published, and for nothing else."""


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    stages: Decision,
    violations: Violations,
    now: datetime,
) -> Delivery:
    """Return the decision about everything that serves, after the one about the stages.

    A candidate exists once the stages have left the position open: all of them have completed.
    """
    serving = serving_build(snapshot, stages.ledger)
    builds = (deployment.object for deployment in snapshot.builds.values())
    allowed = allowance.decide(snapshot.accounts, snapshot.job, builds)
    requests = idle.decide(snapshot, target, stages.ledger, serving, allowed, now)
    if stages.position is None:
        without_pods = idle.position(snapshot.job, requests)
        if target.endpoint_name is None:
            candidate = rollout.decide(
                snapshot, target, stages.ledger, serving, without_pods, allowed, violations, now
            )
        else:
            candidate = shared.decide(snapshot, target, stages.ledger, serving, violations)
        if candidate.takes_over:
            serving = target.build
    else:
        unchanged = Decision(ledger=stages.ledger)
        candidate = Rollout(decision=unchanged, position=stages.position)
    kept = stable.decide(snapshot, target, serving, requests, allowed, violations, candidate, now)
    current = kept.state
    if current is None and serving is not None:
        current = shared.state_of(snapshot, target, candidate.decision.ledger, serving)
    wanted = _wanted_gpus(snapshot, target, serving, requests, allowed, candidate)
    polls = allowed.cause.requeue_after if wanted is not None and allowed.cause else None
    return Delivery(
        decision=candidate.decision.then(kept.decision),
        position=explained(candidate.position, kept.note),
        serving=serving,
        state=current,
        requeue_after=min(
            (delay for delay in (requests.requeue_after, polls) if delay is not None), default=None
        ),
        gpus=wanted,
        is_offered=candidate.is_offered,
        awaits_publication=candidate.awaits_publication,
    )


def _wanted_gpus(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    serving: str | None,
    requests: IdleState,
    allowed: Allowance,
    candidate: Rollout,
) -> int | None:
    """Return the GPUs that must be granted, None if no pods of the job need one.

    The GPUs of a build that a FineTuneEndpoint serves are those of the endpoint.
    """
    starts = bool(candidate.replicas) or candidate.position is allowed.cause
    old = None if serving == target.build else serving
    keeps = old is not None and endpoint_of(candidate.decision.ledger, old) is None
    if requests.stops or not (starts or keeps):
        return None
    return allowed.wanted(replicas(snapshot, target, target.revision).count)
