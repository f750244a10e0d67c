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
    if endpoint is None:
        return ()
    return (SharedEndpointTarget.of(endpoint.name, endpoint.uid, endpoint.volume),)


def place(target: TargetRevision, entry: PublishTarget) -> str:
    """Return the place of a target as one text. Another hub is another place."""
    repository = entry.hugging_face
    return entry.destination if repository is None else target.hub.place(repository.repo)


def links(ledger: Ledger, target: TargetRevision) -> dict[str, str]:
    """Return the references of the published models, by name of the target."""
    references: dict[str, str] = {}
    for entry in target.resolved.spec.publish or ():
        publication = current(ledger, target, entry)
        if publication is not None and (address := reference(entry, publication)) is not None:
            references[entry.name] = address
    return references


def content(ledger: Ledger, target: TargetRevision, what: str) -> str:
    """Return the digest of the manifest of the adapter or merged model, empty if unknown."""
    if what == "adapter":
        return ledger.revision(target.revision).artifacts.adapter_manifest or ""
    merging = ledger.merging(target.revision, target.build)
    return (merging and merging.merged_manifest) or ""


def content_of(ledger: Ledger, target: TargetRevision, entry: PublishTarget) -> str:
    """Return what identifies the content of a target.

    A tracking server also gets the links, in an experiment and for a registered model.
    """
    own = content(ledger, target, entry.what)
    if not isinstance(entry, TrackingServer):
        return own
    names = entry.mlflow.model_dump(include={"experiment", "registered_model"}, exclude_none=True)
    return digest([own, links(ledger, target), *([names] if names else [])])


def record_of(ledger: Ledger, revision: str, name: str) -> Publication | None:
    """Return the record of a target, or None."""
    records = ledger.revision(revision).published or ()
    return next((record for record in records if record.name == name), None)


def current(ledger: Ledger, target: TargetRevision, entry: PublishTarget) -> Publication | None:
    """Return the record of a target if it is about its present place and content, or None."""
    publication = record_of(ledger, target.revision, entry.name)
    if publication is None or publication.destination != place(target, entry):
        return None
    return publication if publication.content == content_of(ledger, target, entry) else None


def is_complete(ledger: Ledger, target: TargetRevision, entry: PublishTarget) -> bool:
    """Report whether a target holds the content of the revision under all its names.

    If the operator signs, it also holds the signed statement about the content.
    """
    publication = current(ledger, target, entry)
    if not _is_published(publication, entry) or not _has_tags(ledger, target, entry):
        return False
    return not awaits_statement(publication, target, entry)


def is_on_claim(ledger: Ledger, revision: str, endpoint_target: SharedEndpointTarget) -> bool:
    """Report whether the claim of an endpoint holds the adapter of a revision."""
    publication = record_of(ledger, revision, endpoint_target.name)
    return (
        publication is not None
        and publication.destination == endpoint_target.destination
        and publication.content == ledger.revision(revision).artifacts.adapter_manifest
        and _is_published(publication, endpoint_target)
    )


def awaits_statement(
    publication: Publication | None, target: TargetRevision, entry: PublishTarget
) -> TypeGuard[Publication]:
    """Report whether a target lacks only the signed statement about its content.

    The statement names the digest of the content, so it is signed after the content was published.
    A hub gets both in one commit, because no commit can name itself: the statement names the list
    of files, which an earlier attempt has reported.
    """
    if target.config.signing_key is None or publication is None or not publication.attestation_due:
        return False
    return _is_held(publication, entry) or _is_listed(publication, entry)


def _is_published(publication: Publication | None, entry: PublishTarget) -> bool:
    return _is_held(publication, entry) and publication.error is None


def _has_tags(ledger: Ledger, target: TargetRevision, entry: PublishTarget) -> bool:
    """Report whether no other revision has taken a tag of a target since the last attempt."""
    publication = record_of(ledger, target.revision, entry.name)
    return publication is None or not any(
        record.destination == publication.destination
        and record.digest not in (None, publication.digest)
        and record.time > publication.time
        and {*(record.tags or ())} & {*entry.moving_names}
        for name, revision in ledger.revisions.items()
        for record in revision.published or ()
        if name != target.revision
    )


def _is_listed(publication: Publication, entry: PublishTarget) -> bool:
    """Report whether the files are known that a hub gets together with the statement."""
    return entry.hugging_face is not None and publication.manifest is not None


def _is_held(publication: Publication | None, entry: PublishTarget) -> TypeGuard[Publication]:
    """Report whether some attempt has published the content under all names of a target."""
    if publication is None or publication.digest is None:
        return False
    return {*entry.moving_names} <= {*(publication.tags or ())}


def failure(
    ledger: Ledger, target: TargetRevision, entry: PublishTarget
) -> PublicationError | None:
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
    publication = current(ledger, target, entry)
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


def places(earlier: Iterable[str], ledger: Ledger) -> dict[str, str]:
    """Return the same digests with the place of each; an empty text if the ledger has none."""
    places = {
        record.digest: record.destination
        for revision in ledger.revisions.values()
        for record in revision.published or ()
    }
    return {digest: places.get(digest, "") for digest in digests(earlier, ledger)}


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
        entry.name
        for entry in targets(target)
        if entry.name in names and not _is_done(current(ledger, target, entry), target, entry)
    ]


def _is_done(publication: Publication | None, target: TargetRevision, entry: PublishTarget) -> bool:
    """Report whether the last attempt has done its part: a first one may only list the files."""
    if awaits_statement(publication, target, entry):
        return publication.error is None
    return _is_published(publication, entry)


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


def reference(entry: PublishTarget, publication: Publication) -> str | None:
    """Return the address of published content: an image or commit by digest, a folder in S3."""
    if publication.digest is None:
        return None
    if entry.oci is not None:
        return f"{entry.oci.repository}@{publication.digest}"
    if isinstance(entry, TrackingServer):
        return entry.mlflow.uri
    if isinstance(entry, SharedEndpointTarget):
        return f"{ENDPOINT_PREFIX}{entry.endpoint}/{publication.content}"
    if entry.hugging_face is not None:
        return f"{entry.destination}@{publication.digest.removeprefix('sha1:')}"
    assert entry.s3 is not None
    return f"{entry.s3.uri}/{publication.digest.replace(':', '-')}/"
