"""Which targets may get the model now, and what the others wait for. Pure.

A target is due once its ``when`` is fulfilled and the evaluation gate allows the build to be
served. ``Verified`` is the outcome of the verification of this very build.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from finetune_api.v1alpha1.publishing.shared_endpoint import SharedEndpointTarget
from finetune_api.v1alpha1.publishing.targets import PublishTarget, When
from finetune_api.v1alpha1.publishing.tracking import NAME as TRACKING
from finetune_api.v1alpha1.publishing.tracking import TrackingServer
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.reconcile.serving import evaluation_gate
from finetune_operator.reconcile.serving.verification import verification_status
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision


@dataclass(frozen=True, kw_only=True)
class Due:
    """The targets that do not hold the model yet."""

    now: tuple[str, ...] = ()
    """Names of those that may get it."""

    waiting: tuple[str, ...] = ()
    """What the others wait for."""

    withheld: str | None = None
    """Why a target does not get the model before an edit, if that is so."""

    def withholds(self, names: Collection[str] | None) -> bool:
        """Report whether one of these targets does not get the model before an edit."""
        return self.withheld is not None and not {*(names or ())} <= {*self.now}


def targets(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, serving: str | None
) -> Due:
    """Return the targets that do not hold the model yet. serving: the serving build, or None."""
    missing = [
        publish_target
        for publish_target in publications.targets(target)
        if not publications.is_complete(ledger, target, publish_target)
    ]
    if not missing or not ledger.is_trained(target.revision):
        return Due(waiting=("the training to complete",) if missing else ())
    gate = evaluation_gate.gate(snapshot.previous, target, ledger, serving)
    refusal = evaluation_gate.refusal(gate, target.resolved.spec.evaluation)
    if refusal is not None:
        return Due(withheld=refusal)
    obstacles = {
        publish_target.name: _obstacle(snapshot, target, ledger, publish_target)
        for publish_target in missing
    }
    if any(isinstance(publish_target, TrackingServer) for publish_target in missing):
        obstacles[TRACKING] = _pending(target, ledger, missing, obstacles)
    return Due(
        now=tuple(name for name, obstacle in obstacles.items() if obstacle is None),
        waiting=tuple(
            f"{obstacle.text} (target {name})"
            for name, obstacle in obstacles.items()
            if obstacle is not None and not obstacle.lasts
        ),
        withheld=next(_lasting(obstacles), None),
    )


def when(target: TargetRevision, publish_target: PublishTarget) -> When:
    """Return when a target gets the model: the written value, or the default for the job."""
    if publish_target.when is not None:
        return publish_target.when
    if target.resolved.spec.serving.enabled:
        return "Verified"
    return "Merged" if publish_target.what == "merged" else "Trained"


@dataclass(frozen=True, kw_only=True)
class _Obstacle:
    text: str
    lasts: bool = False
    """Whether only an edit removes it."""


def _obstacle(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, publish_target: PublishTarget
) -> _Obstacle | None:
    """Return what keeps a target of a trained revision from being due, or None."""
    if isinstance(publish_target, SharedEndpointTarget) and publish_target.volume is None:
        return _Obstacle(text=f"the volume of FineTuneEndpoint {publish_target.endpoint}")
    if isinstance(publish_target, SharedEndpointTarget) and not _has_folder(target):
        name = publish_target.endpoint
        return _Obstacle(text=f"its folder in status.folders of FineTuneEndpoint {name}")
    moment = when(target, publish_target)
    if moment == "Merged" or publish_target.what == "merged":
        merging = ledger.merging(target.revision, target.build)
        if merging is None or merging.outcome != "Completed":
            return _Obstacle(text="the merge to complete")
    if moment != "Verified":
        return None
    outcome = verification_status(snapshot, ledger, target.build).get("outcome")
    if outcome is None:
        return _Obstacle(text=f"the verification of build {target.build}")
    if outcome in ("Verified", *(publish_target.allow or ())):
        return None
    return _Obstacle(
        text=f"The outcome of the verification of build {target.build} is {outcome}. To publish "
        f"the model to target {publish_target.name} nevertheless, add {outcome} to allow of this "
        "target.",
        lasts=True,
    )


def _has_folder(target: TargetRevision) -> bool:
    """Report whether the endpoint of a job knows the folder to which the job publishes."""
    return target.endpoint is not None and target.endpoint.has_folder


def _pending(
    target: TargetRevision,
    ledger: Ledger,
    missing: Collection[PublishTarget],
    obstacles: Mapping[str, _Obstacle | None],
) -> _Obstacle | None:
    """Return what keeps the tracking server from being due: it gets links to the other targets.

    It does not wait for a target that has failed, or that does not get the model before an edit.
    """
    for publish_target in missing:
        publication = publications.current(ledger, target, publish_target)
        obstacle = obstacles[publish_target.name]
        failed = publication is not None and publication.error is not None
        if not (
            isinstance(publish_target, TrackingServer)
            or failed
            or (obstacle is not None and obstacle.lasts)
        ):
            return _Obstacle(text=f"target {publish_target.name}")
    return None


def _lasting(obstacles: dict[str, _Obstacle | None]) -> Iterator[str]:
    return (
        obstacle.text for obstacle in obstacles.values() if obstacle is not None and obstacle.lasts
    )
