"""Publishing as a step of the plan: the decision, the condition, and the targets of the status."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.publishing.publication import PublicationError
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.spec import FineTuneJobSpec
from finetune_api.v1alpha1.status.job import PublishedStatus
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator import delays
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import beside
from finetune_operator.objects.status_view import StatusView
from finetune_operator.reconcile.conditions import Position, PublishingState
from finetune_operator.reconcile.decision import Decision
from finetune_operator.reconcile.publishing import decision as decisions
from finetune_operator.reconcile.publishing import due as due_of
from finetune_operator.reconcile.publishing.decision import PublishInputs
from finetune_operator.reconcile.publishing.due import Due
from finetune_operator.reconcile.serving.delivery import Delivery
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True, kw_only=True)
class Publishing:
    """The decision about publishing, and what the status says about it."""

    decision: Decision
    state: PublishingState | None = None
    """None if the spec asks for no targets."""

    requeue_after: float | None = None

    def digests(self, previous: StatusView, ledger: Ledger) -> list[str]:
        """Return ``status.publishedDigests``. ledger: the one that the status will contain."""
        return list(publications.digests(previous.published_digests, ledger))

    def to_status(self, target: TargetRevision, ledger: Ledger) -> list[dict[str, Any]]:
        """Return ``status.publish``. ledger: the one that the status will contain."""
        return [
            published.model_dump(mode="json", by_alias=True, exclude_none=True)
            for published in _targets(target, ledger)
        ]


def decide(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    stages: Position | None,
    delivery: Delivery,
    refused: Position | None,
    now: datetime,
) -> Publishing:
    """Return the decision about publishing, after those about the stages and the endpoint.

    stages: the position of the stages, None once all have completed; refused: that of a job whose
    spec exceeds the limits of the policy.
    """
    before, serving = delivery.decision.ledger, delivery.serving
    followed = decisions.followed(snapshot, target, before, serving, now)
    if not publications.targets(target):
        return Publishing(decision=followed)
    due = due_of.targets(snapshot, target, followed.ledger, serving)
    delivers = delivery.position.state == "active" and not delivery.awaits_publication
    busy = delivers or (stages is not None and stages.state != "failed")
    decision = followed
    if followed.position is None:
        around = PublishInputs(busy=busy, refused=refused)
        start = decisions.started(snapshot, target, followed.ledger, due, around, now)
        decision = followed.then(start)
    state = _state(target, due, decision.position, ends=delivery.position.state == "failed")
    polls = delays.POLL if due.waiting and delivery.position.state == "done" else None
    position = decision.position
    return Publishing(
        decision=decision,
        state=state,
        requeue_after=position.requeue_after if position is not None else polls,
    )


def _state(
    target: TargetRevision, due: Due, position: Position | None, *, ends: bool
) -> PublishingState:
    """Return the state of publishing. ends: whether the job has failed, so that waiting is vain."""
    if position is not None:
        failed = position.state in ("failed", "stalled")
        return PublishingState(
            status="False" if failed else "Unknown",
            reason=position.reason,
            message=position.message,
            finished=position.state == "failed",
        )
    if due.now:
        message = f"Publishing to {', '.join(due.now)} starts when the volume is free."
        return PublishingState(
            status="Unknown", reason=Reason.PENDING, message=message, finished=ends
        )
    if due.waiting:
        message = f"Publishing waits for {'; '.join(due.waiting)}."
        return PublishingState(
            status="Unknown", reason=Reason.PENDING, message=message, finished=ends
        )
    if due.withheld is not None:
        return PublishingState(
            status="False", reason=Reason.PUBLISH_WITHHELD, message=due.withheld, finished=True
        )
    return PublishingState(
        status="True",
        reason=Reason.PUBLISHED,
        message=" ".join(_held(target.resolved.spec)),
        finished=True,
    )


def _held(spec: FineTuneJobSpec) -> Iterator[str]:
    """Yield what the targets, and the tracking server, have got."""
    if spec.publish:
        yield f"All targets hold the model: {', '.join(target.name for target in spec.publish)}."
    if spec.serving.enabled and spec.serving.endpoint_ref is not None:
        yield f"FineTuneEndpoint {spec.serving.endpoint_ref.name} has the adapter."
    if spec.tracking is not None:
        uri = spec.tracking.mlflow.uri
        yield f"The tracking server {uri} has the results of the training."


def _targets(target: TargetRevision, ledger: Ledger) -> Iterator[PublishedStatus]:
    for publish_target in publications.targets(target):
        publication = publications.current(ledger, target, publish_target)
        if publication is not None:
            yield PublishedStatus(
                name=publish_target.name,
                reference=publications.reference(publish_target, publication),
                digest=publication.digest,
                time=publication.time,
                error=publication.error or _failure(target, ledger, publish_target.name),
            )
        else:
            yield PublishedStatus(
                name=publish_target.name, error=_failure(target, ledger, publish_target.name)
            )


def _failure(target: TargetRevision, ledger: Ledger, name: str) -> PublicationError | None:
    """Return the error of the last attempt, if it failed before it reported its targets."""
    attempt: Attempt | None = None
    for stage in beside(target.resolved.spec):
        attempt = ledger.latest(target.revision, stage, target.build)
    if attempt is None or attempt.outcome != "Failed" or name not in (attempt.targets or ()):
        return None
    if publications.record_of(ledger, target.revision, name) is not None:
        return None
    return PublicationError(
        reason=attempt.reason or Reason.FAILED, message=attempt.message or "Publishing failed."
    )
