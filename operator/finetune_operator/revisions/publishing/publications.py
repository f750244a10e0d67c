"""What targets hold of the revisions in the ledger, and what is still to be published.

The record of a target is that of its last attempt. The operator derives the address of the content
from spec and digest: a compromised pod must not name another one.
"""

from collections.abc import Collection, Iterable
from typing import TypeGuard

from finetune_api.revision_hash import digest
from finetune_api.v1alpha1.publishing.publication import Publication, PublicationError
from finetune_api.v1alpha1.publishing.shared_endpoint import PREFIX as ENDPOINT_PREFIX
from finetune_api.v1alpha1.publishing.shared_endpoint import SharedEndpointTarget
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.publishing.tracking import PREFIX as TRACKING_PREFIX
from finetune_api.v1alpha1.publishing.tracking import TrackingServer
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.job import MOST_PUBLISHED
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.stages import publishes
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision

UNDER_WAY = ("Starting", "Running")


def targets(target: TargetRevision) -> tuple[PublishTarget, ...]:
    """Return the targets that the spec asks for, the tracking server last."""
    spec = target.resolved.spec
    tracking = () if spec.tracking is None else (TrackingServer.of(spec.tracking),)
    return (*(spec.publish or ()), *shared_endpoint(target), *tracking)


def shared_endpoint(target: TargetRevision) -> tuple[SharedEndpointTarget, ...]:
    """Return the endpoint that serves the adapter as a target; nothing if there is none."""
    endpoint = target.endpoint
    return () if endpoint is None else (SharedEndpointTarget.of(endpoint.name, endpoint.uid),)


def place(target: TargetRevision, each: PublishTarget) -> str:
    """Return the place of a target as one text. Another hub is another place."""
    repository = each.hugging_face
    return each.destination if repository is None else target.hub.place(repository.repo)


def links(ledger: Ledger, target: TargetRevision) -> dict[str, str]:
    """Return the references of the published models, by name of the target."""
    references: dict[str, str] = {}
    for publish_target in target.resolved.spec.publish or ():
        publication = current(ledger, target, publish_target)
        if (
            publication is not None
            and (address := reference(publish_target, publication)) is not None
        ):
            references[publish_target.name] = address
    return references


def content(ledger: Ledger, target: TargetRevision, what: str) -> str:
    """Return the digest of the manifest of the adapter or merged model, empty if unknown."""
    if what == "adapter":
        return ledger.revision(target.revision).artifacts.adapter_manifest or ""
    merging = ledger.merging(target.revision, target.build)
    return (merging and merging.merged_manifest) or ""


def content_of(ledger: Ledger, target: TargetRevision, each: PublishTarget) -> str:
    """Return what identifies the content of a target.

    A tracking server also gets the links, in an experiment and for a registered model.
    """
    own = content(ledger, target, each.what)
    if not isinstance(each, TrackingServer):
        return own
    names = each.mlflow.model_dump(include={"experiment", "registered_model"}, exclude_none=True)
    return digest([own, links(ledger, target), *([names] if names else [])])


def record_of(ledger: Ledger, revision: str, name: str) -> Publication | None:
    """Return the record of a target, or None."""
    records = ledger.revision(revision).published or ()
    return next((record for record in records if record.name == name), None)


def current(ledger: Ledger, target: TargetRevision, each: PublishTarget) -> Publication | None:
    """Return the record of a target if it is about its present place and content, or None."""
    publication = record_of(ledger, target.revision, each.name)
    if publication is None or publication.destination != place(target, each):
        return None
    return publication if publication.content == content_of(ledger, target, each) else None


def is_complete(ledger: Ledger, target: TargetRevision, each: PublishTarget) -> bool:
    """Report whether a target holds the content of the revision under all its names.

    If the operator signs, it also holds the signed statement about the content.
    """
    publication = current(ledger, target, each)
    if not _is_published(publication, each) or not _has_tags(ledger, target, each):
        return False
    return not awaits_statement(publication, target, each)


def awaits_statement(
    known: Publication | None, target: TargetRevision, each: PublishTarget
) -> TypeGuard[Publication]:
    """Report whether a target lacks only the signed statement about what it holds.

    The statement names the digest of the content, so it is signed after the content was published.
    """
    signs = target.config.signing_key is not None
    return signs and _is_held(known, each) and bool(known.attestation_due)


def _is_published(publication: Publication | None, publish_target: PublishTarget) -> bool:
    return _is_held(publication, publish_target) and publication.error is None


def _has_tags(ledger: Ledger, target: TargetRevision, publish_target: PublishTarget) -> bool:
    """Report whether no other revision has taken a tag of a target since the last attempt."""
    publication = record_of(ledger, target.revision, publish_target.name)
    return publication is None or not any(
        record.destination == publication.destination
        and record.digest not in (None, publication.digest)
        and record.time > publication.time
        and {*(record.tags or ())} & {*publish_target.moving_names}
        for name, revision in ledger.revisions.items()
        for record in revision.published or ()
        if name != target.revision
    )


def _is_held(
    publication: Publication | None, publish_target: PublishTarget
) -> TypeGuard[Publication]:
    """Report whether some attempt has published the content under all names of a target."""
    if publication is None or publication.digest is None:
        return False
    return {*publish_target.moving_names} <= {*(publication.tags or ())}


def failure(ledger: Ledger, target: TargetRevision, each: PublishTarget) -> PublicationError | None:
    """Return why the last attempt has not published the build to a target, or None."""
    attempts = ledger.revision(target.revision).stages
    attempt = next(
        (
            candidate
            for candidate in attempts
            if publishes(candidate.stage) and candidate.build == target.build
        ),
        None,
    )
    if attempt is None or attempt.outcome != "Failed":
        return None
    publication = current(ledger, target, each)
    if publication is not None and publication.error is not None:
        return publication.error
    return PublicationError(
        reason=attempt.reason or Reason.FAILED, message=attempt.message or "Publishing failed."
    )


def digests(earlier: Iterable[str], ledger: Ledger) -> tuple[str, ...]:
    """Return the digests of all contents that the job has published, the latest last.

    earlier: those in the previous status, of which revisions may have been forgotten since.
    """
    records = (
        record for revision in ledger.revisions.values() for record in revision.published or ()
    )
    superseded = (
        digest
        for revision in ledger.revisions.values()
        for attempt in revision.stages
        for digest in attempt.published or ()
    )
    present = [
        *superseded,
        *(
            record.digest
            for record in sorted(records, key=lambda record: record.time)
            if not record.destination.startswith((TRACKING_PREFIX, ENDPOINT_PREFIX))
        ),
    ]
    unrecorded = [digest for digest in earlier if digest not in present]
    return tuple(dict.fromkeys([*unrecorded, *filter(None, present)]))[-MOST_PUBLISHED:]


def under_way(ledger: Ledger) -> list[tuple[str, Attempt]]:
    """Return the attempts at publishing that have not ended, with their revisions."""
    return [
        (name, attempt)
        for name, revision in ledger.revisions.items()
        for attempt in revision.stages
        if publishes(attempt.stage) and attempt.outcome in UNDER_WAY
    ]


def unpublished(ledger: Ledger, target: TargetRevision, names: Collection[str]) -> list[str]:
    """Return the names of the targets whose last attempt has not published what it was to.

    An attempt that was to add a statement, and has not reported it, has left an error.
    """
    return [
        publish_target.name
        for publish_target in targets(target)
        if publish_target.name in names
        and not _is_published(current(ledger, target, publish_target), publish_target)
    ]


def without_removed(ledger: Ledger, target: TargetRevision, names: Collection[str]) -> Ledger:
    """Return the ledger without the publications that an attempt for some targets removes.

    The publish pod removes the folders of other revisions from the claim of an endpoint, unless the
    endpoint needs them. It may do so before it fails, so the records go when it starts.
    """
    places = {
        endpoint_target.destination
        for endpoint_target in shared_endpoint(target)
        if endpoint_target.name in names
    }
    if not places or target.endpoint is None:
        return ledger
    kept = {*target.endpoint.kept, content(ledger, target, "adapter")}
    return Ledger(
        {
            name: revision.model_copy(
                update={
                    "published": [
                        publication
                        for publication in revision.published or ()
                        if publication.destination not in places or publication.content in kept
                    ]
                    or None
                }
            )
            for name, revision in ledger.revisions.items()
        }
    )


def reference(each: PublishTarget, known: Publication) -> str | None:
    """Return the address of published content: an image or commit by digest, a folder in S3."""
    if known.digest is None:
        return None
    if each.oci is not None:
        return f"{each.oci.repository}@{known.digest}"
    if isinstance(each, TrackingServer):
        return each.mlflow.uri
    if isinstance(each, SharedEndpointTarget):
        return f"{ENDPOINT_PREFIX}{each.endpoint}/{known.content}"
    if each.hugging_face is not None:
        return f"{each.destination}@{known.digest.removeprefix('sha1:')}"
    assert each.s3 is not None
    return f"{each.s3.uri}/{known.digest.replace(':', '-')}/"
