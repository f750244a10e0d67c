"""The rollout of a build that a FineTuneEndpoint serves beside those of other jobs.

Such a build has no Deployment. The publish stage copies its adapter to the claim of the endpoint,
and ``status.sharedModel`` tells the endpoint to load and verify it. The build that serves continues
until every model name of the job answers with the new adapter; then the Service of the job selects
the pods of the endpoint. Nothing here waits for an endpoint that the spec does not name.

If the verification of an adapter fails while the endpoint serves an earlier one of the job, the
attempt has failed: the endpoint is asked for the earlier one again, also after a restart of vLLM.
If the serving adapter itself fails after a restart, it stays offered, and an edit that asks for
another attempt, such as that of ``ftj retry``, lets the endpoint verify it again.
"""

from dataclasses import replace

from finetune_api.v1alpha1.endpoints.status import EndpointModelStatus
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Apply
from finetune_operator.manifests import serving as manifests
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile import policy
from finetune_operator.reconcile.conditions import Position, ServingState, active
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.messages import sentence
from finetune_operator.reconcile.policy import Violations
from finetune_operator.reconcile.serving import evaluation_gate, state
from finetune_operator.reconcile.serving.candidate import (
    Rollout,
    latest_attempt,
    retry_key,
    withheld,
)
from finetune_operator.reconcile.serving.endpoint_models import (
    Models,
    is_retained,
    models_of,
    models_of_build,
)
from finetune_operator.reconcile.serving.state import endpoint_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision

REFUSED = (str(Reason.ENDPOINT_FULL), str(Reason.NAME_CONFLICT))
"""States of a model that continue by themselves once another job leaves, or the endpoint grows."""


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    violations: Violations,
) -> Rollout:
    """Return the decision about the candidate of a job whose stages have completed.

    serving: the build that the Service selects, or None; violations: the limits that the spec
    exceeds.
    """
    gate = evaluation_gate.gate(snapshot.previous, target, ledger, serving)
    failed_since = models_of_build(snapshot, ledger, target.build).failed is not None
    attempt = latest_attempt(snapshot, target, ledger, serving, failed_since=failed_since)
    unchanged = Decision(ledger=ledger, warnings=evaluation_gate.warnings(gate))
    prevented = (
        withheld(target, ledger, serving, attempt, gate, ready=0, desired=0)
        or policy.refusal(policy.not_admitted(violations, attempt))
        or policy.without_endpoint(target)
    )
    if prevented is not None:
        return Rollout(decision=unchanged, position=prevented)
    if attempt.outcome == "Failed":
        message = attempt.message or ""
        return Rollout(decision=unchanged, position=_failed(message, target, ledger, serving))
    if not is_published(ledger, target):
        position, starts = _unpublished(target, ledger)
        return Rollout(decision=unchanged, position=position, awaits_publication=starts)
    models = models_of(
        snapshot, ledger, target.revision, target.endpoint_name, attempt=attempt.attempt
    )
    attempt = policy.admitted(target, attempt).model_copy(update={"endpoint": target.endpoint_name})
    if models.all_answer:
        # An edit made while the adapter answers asks for no attempt if it fails later.
        answered = {"outcome": "Completed", "retry_key": retry_key(target, attempt)}
        attempt = attempt.model_copy(update=answered)
    failed, position = models.failed, _position(snapshot, target, ledger, serving, models)
    if failed is not None and is_retained(target, ledger, serving):
        problem = _problem(target, failed)
        position = _failed(problem, target, ledger, serving)
        end = {"outcome": "Failed", "reason": position.reason, "message": problem}
        ledger = ledger.with_attempt(target.revision, attempt.model_copy(update=end))
        return Rollout(decision=replace(unchanged, ledger=ledger), position=position)
    ledger = ledger.with_attempt(target.revision, attempt)
    service = manifests.service(snapshot.job, target, target.build, endpoint=target.endpoint_name)
    return Rollout(
        decision=Decision(
            ledger=ledger,
            actions=(Apply(object=service),) if models.all_answer else (),
            warnings=unchanged.warnings,
        ),
        position=position,
        selected=models.all_answer,
        takes_over=models.all_answer,
        is_offered=True,
    )


def is_published(ledger: Ledger, target: TargetRevision) -> bool:
    """Report whether the claim of the endpoint holds the adapter of a target."""
    endpoint_targets = publications.shared_endpoint(target)
    return bool(endpoint_targets) and all(
        publications.is_complete(ledger, target, endpoint_target)
        for endpoint_target in endpoint_targets
    )


def _unpublished(target: TargetRevision, ledger: Ledger) -> tuple[Position, bool]:
    """Return the position of a job whose adapter is not published, and whether it will be."""
    name = target.endpoint_name
    for endpoint_target in publications.shared_endpoint(target):
        if endpoint_target.volume is None:
            text = f"FineTuneEndpoint {name} has no volume yet."
            return active(Reason.PUBLISHING, text), True
        error = publications.failure(ledger, target, endpoint_target)
        if error is not None:
            message = f"The adapter is not on FineTuneEndpoint {name}: {sentence(error.message)}"
            return Position(state="failed", reason=error.reason, message=message), False
    text = f"The publish pod copies the adapter to FineTuneEndpoint {name}."
    return active(Reason.PUBLISHING, text), True


def _position(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str | None,
    models: Models,
) -> Position:
    """Return the position of a job whose adapter is published."""
    name, build = target.endpoint_name, target.build
    continues = _continues(target, ledger, serving)
    for model in models.of_job:
        if model.state in REFUSED:
            problem = _problem(target, model)
            return Position(state="stalled", reason=model.state, message=problem + continues)
    if models.failed is not None:
        return _failed(_problem(target, models.failed), target, ledger, serving)
    if models.all_answer:
        if serving == build and not state.misdirected(snapshot, target, build, name):
            names = ", ".join(model.name for model in models.of_job)
            text = f"Serving at {manifests.endpoint(snapshot.job)} as {names}"
            return Position(state="done", reason=Reason.SERVING, message=text)
        text = f"The Service switches to FineTuneEndpoint {name}."
        return active(Reason.STARTING, text)
    waiting = next((model for model in models.of_job if not models.answers(model)), None)
    detail = f"FineTuneEndpoint {name} has not listed the models of the job yet."
    if waiting is not None:
        why = f": {sentence(waiting.message)}" if waiting.message else "."
        detail = f"FineTuneEndpoint {name} has not verified model {waiting.name} yet"
        detail += f" ({waiting.state}){why}"
    reason = Reason.RESTARTING if serving == build else Reason.STARTING
    return active(reason, detail + continues)


def _failed(message: str, target: TargetRevision, ledger: Ledger, serving: str | None) -> Position:
    """Return the position of a job whose adapter the endpoint could not verify."""
    continues = _continues(target, ledger, serving)
    return Position(
        state="failed",
        reason=Reason.VERIFICATION_FAILED,
        message=f"{message}{continues} To verify the same adapter again, run ftj retry on the job, "
        "which changes spec.runPolicy; to train again, set spec.rerun to a new value.",
    )


def _problem(target: TargetRevision, model: EndpointModelStatus) -> str:
    message = sentence(model.message or "")
    return f"FineTuneEndpoint {target.endpoint_name}, model {model.name}: {message}"


def _continues(target: TargetRevision, ledger: Ledger, serving: str | None) -> str:
    at_same = endpoint_of(ledger, str(serving)) == target.endpoint_name
    if serving in (None, target.build) or (at_same and not is_retained(target, ledger, serving)):
        return ""
    return f" Build {ledger.name_of(serving)} continues to serve."


def state_of(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, build: str
) -> ServingState | None:
    """Return the state of the serving build; None if it has serving pods of its own."""
    endpoint = endpoint_of(ledger, build)
    if endpoint is None:
        return None
    revision = ledger.revision_of(build)
    models = models_of_build(snapshot, ledger, build)
    name = ledger.name_of(build)
    if models.all_answer and snapshot.service is not None:
        names = ", ".join(model.name for model in models.of_job)
        return ServingState(
            available=True,
            reason=Reason.AVAILABLE,
            message=f"Build {name} answers at {manifests.endpoint(snapshot.job)} as {names}, "
            f"served by FineTuneEndpoint {endpoint}.",
            summary=str(revision) if build == target.build else f"{revision} (old)",
            revision=revision,
            build=build,
        )
    return ServingState(
        available=False,
        reason=Reason.NOT_AVAILABLE,
        message=f"Build {name} does not answer under all its names at FineTuneEndpoint {endpoint}.",
        summary="down",
        revision=revision,
        build=build,
    )
