"""The candidate, the build of the target: its attempt at serving, and why it is withheld.

That is the same for a build with its own pods (``rollout``) and one that a FineTuneEndpoint serves
(``shared``).
"""

from dataclasses import dataclass

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import SERVE
from finetune_operator.reconcile.conditions import Position, suspended
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The decision about the candidate, and what the stable build needs to know of it."""

    decision: Decision
    position: Position
    replicas: int | None = None
    """Replicas that its Deployment gets, None if the Deployment stays as it is."""

    selected: bool = False
    """Whether the Service is applied with the candidate as its build."""

    takes_over: bool = False
    """Whether the candidate serves from now on, without pods of its own."""

    awaits_publication: bool = False
    """Whether the candidate waits until its adapter is published, and for nothing else."""

    is_offered: bool = False
    """Whether a FineTuneEndpoint may serve the candidate, whose adapter is published."""


def withheld(
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    attempt: Attempt,
    gate: evaluation_gate.GateDecision,
    *,
    ready: int,
    desired: int,
) -> Position | None:
    """Return the position of a job whose candidate must not be served now, or None.

    The serving build continues to serve, even if its Deployment has to be created again. The first
    build is selected before it was ever ready: until then a pause stops it like any stage.
    """
    spec = target.resolved.spec
    if serving == target.build:
        loading = attempt.outcome == "Starting" and not ready
        return suspended() if spec.suspend and loading and desired else None
    if spec.suspend:
        return suspended()
    refusal = evaluation_gate.refusal(gate, spec.evaluation)
    if refusal is not None:
        if serving is not None:
            refusal += f" Build {ledger.name_of(serving)} continues to serve."
        return Position(state="failed", reason=Reason.EVAL_GATE_FAILED, message=refusal)
    return None


def latest_attempt(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    *,
    failed_since: bool = False,
) -> Attempt:
    """Return the attempt at serving the candidate, a new one if an edit asks for it.

    A build that was in service before and has been taken down since must become ready again.
    failed_since: whether the latest attempt has completed, but its FineTuneEndpoint could not
    verify the adapter again.
    """
    build = target.build
    latest = ledger.serving(build)
    key = retry_key(target, latest)
    if latest is not None:
        stays = build == serving or build in snapshot.builds
        has_completed = latest.outcome == "Completed" and not failed_since
        if stays if has_completed else latest.retry_key == key:
            return latest
    return Attempt(
        stage=SERVE.name,
        build=build,
        build_digest=target.resolved.build_digest,
        attempt=latest.attempt + 1 if latest else 1,
        outcome="Starting",
        retry_key=key,
        image_id=latest.image_id if latest else None,
        base=evaluation_gate.base_of(target),
    )


def retry_key(target: TargetRevision, latest: Attempt | None) -> str:
    """Return the key of an attempt at serving that begins now. latest: the one before, if any."""
    # Fields whose edit asks for an attempt may be in the part that cannot be read.
    kept = latest.retry_key if latest is not None and target.prevented is not None else None
    return kept or target.serve_key
