"""The policy of the chart, and the limits of profiles: a job that exceeds them starts no attempt.

Limits apply when work starts. A running stage and finished work continue whatever the limits are.
Serving pods continue with the values that they were admitted with: the attempt at serving records
the limited fields, so that a value is checked again only after it has changed.
"""

from finetune_api.defaulting import InvalidSpec
from finetune_api.policy.check import Violation, serving_keys, violations
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import queues
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.messages import sentence
from finetune_operator.revisions.continued import OF_TRAINING
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.profiles import SelectedProfile
from finetune_operator.revisions.target import TargetRevision

Violations = tuple[Violation, ...]


def check(target: TargetRevision, selected: SelectedProfile) -> Violations:
    """Return the limits that the spec of a target violates."""
    resolved = target.resolved
    violated = violations(resolved.spec, selected.settings.policy, listed=resolved.listed)
    for name, limits in selected.limits:
        violated += violations(resolved.spec, limits, listed=resolved.listed, profile=name)
    if target.prevented is not None:
        # These groups describe the revision that cannot start.
        violated = tuple(
            violation for violation in violated if violation.field[0] not in OF_TRAINING
        )
    return violated + selected.refusals


def held(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, refused: Violations
) -> Position | None:
    """Return the position of a job that may start no stage, None if it may.

    Its endpoint cannot serve it, its revision waits for another job or for a queue, or its next
    attempt violates limits.
    """
    if (without := without_endpoint(target) or unable_endpoint(target)) is not None:
        return without
    if target.unavailable is None:
        return refusal(refused) or queues.missing(snapshot, target, ledger)
    return Position(
        state="stalled",
        reason=target.unavailable.reason,
        message=str(target.unavailable),
        # Nothing reports the changes of another job to this one.
        requeue_after=delays.PARENT,
    )


def awaited(target: TargetRevision, meanwhile: Position | None = None) -> Position | None:
    """Return the position of a job whose revision cannot start, None if it is the target.

    meanwhile: the position of the revision that continues.
    """
    cause = target.prevented
    if cause is None:
        return None
    invalid = isinstance(cause, InvalidSpec)
    message = str(cause)
    if meanwhile is not None:
        continues = f"Revision {target.revision} continues meanwhile: {meanwhile.message}"
        message = f"{sentence(message)} {continues}"
    return Position(
        state="failed" if invalid else "stalled",
        reason=Reason.INVALID_SPEC if isinstance(cause, InvalidSpec) else cause.reason,
        message=message,
        requeue_after=None if meanwhile is None else meanwhile.requeue_after,
    )


def without_endpoint(target: TargetRevision) -> Position | None:
    """Return the position of a job whose FineTuneEndpoint can never have its model, or None.

    The endpoint does not exist, or the trainer image of the revision knows none.
    """
    name = target.endpoint_name
    if name is None:
        return None
    if target.contract == 1:
        return Position(
            state="failed",
            reason=Reason.INVALID_SPEC,
            message=f"FineTuneEndpoint {name} cannot get the model of revision {target.revision}: "
            "an earlier release of the operator started the revision, and its trainer image cannot "
            "publish to an endpoint. Set spec.serving.mode to its earlier value, or spec.rerun to "
            "a new one, which trains the model again.",
        )
    if target.endpoint is not None:
        return None
    return Position(
        state="stalled",
        reason=Reason.ENDPOINT_NOT_FOUND,
        message=f"FineTuneEndpoint {name} does not exist in the namespace of the job: create it, "
        "or set spec.serving.endpointRef.name to an endpoint that exists.",
        requeue_after=delays.PARENT,
    )


def unable_endpoint(target: TargetRevision) -> Position | None:
    """Return the position of a job whose FineTuneEndpoint cannot serve another model, or None."""
    obstacle = None if target.endpoint is None else target.endpoint.cannot_serve
    if obstacle is None:
        return None
    return Position(
        state="stalled",
        reason=obstacle.reason,
        message=obstacle.message,
        requeue_after=delays.PARENT,
    )


def refusal(refused: Violations) -> Position | None:
    """Return the position of a job whose next attempt violates limits, or None."""
    if not refused:
        return None
    message = " ".join(violation.message for violation in refused)
    return Position(state="stalled", reason=Reason.NOT_ALLOWED, message=message)


def not_admitted(refused: Violations, attempt: Attempt | None) -> Violations:
    """Return the violations by fields of serving pods that an attempt was not admitted with."""
    admitted = (attempt.admitted or ()) if attempt is not None else ()
    return tuple(
        violation for violation in refused if violation.serving and violation.key not in admitted
    )


def admitted(target: TargetRevision, attempt: Attempt) -> Attempt:
    """Return an attempt at serving with a record of its present limited fields."""
    return attempt.model_copy(update={"admitted": list(serving_keys(target.resolved.spec))})
