"""What an attempt at publishing that has ended leaves in the ledger, from the result of its Job."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from finetune_api.contracts.provenance import file_list
from finetune_api.contracts.provenance.attestation import MANIFEST
from finetune_api.contracts.result import PublishArtifacts, PublishedTarget
from finetune_api.safety.printable import printable
from finetune_api.v1alpha1.publishing.publication import Publication, PublicationError
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects.conditions import timestamp
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision

MOST_CHARACTERS = 1024
"""Of the error of a target; the status has those of all revisions."""


def with_outcomes(
    ledger: Ledger,
    target: TargetRevision,
    attempt: Attempt,
    artifacts: PublishArtifacts | None,
    *,
    failure: PublicationError | None,
    time: str,
) -> Ledger:
    """Return the ledger with the outcome of each target of an attempt that has ended.

    artifacts: from the result of its Job; failure: the error of the targets that it does not name,
    None to record no errors.
    """
    artifacts = artifacts or PublishArtifacts()
    reported = {publish_target.name: publish_target for publish_target in artifacts.targets}
    desired = {
        publish_target.name: publish_target for publish_target in publications.targets(target)
    }
    time = _in_order(ledger, time)
    records = (
        _record(ledger, target, desired[name], reported.get(name), artifacts.files, failure, time)
        for name in attempt.targets or ()
        if name in desired
    )
    return _with_records(ledger, target.revision, filter(None, records))


def _in_order(ledger: Ledger, time: str) -> str:
    """Return a time later than those of all records, which say who took a tag last.

    If the clock was set back, the revision that publishes again would otherwise never seem to have
    taken its tags back, and would publish without an end.
    """
    times = (
        record.time for revision in ledger.revisions.values() for record in revision.published or ()
    )
    latest = max(times, default="")
    if time > latest:
        return time
    return timestamp(datetime.fromisoformat(latest) + timedelta(seconds=1))


def _with_records(ledger: Ledger, revision: str, records: Iterable[Publication]) -> Ledger:
    """Return the ledger with the records of some targets of a revision."""
    record = ledger.revision(revision)
    merged = {
        publication.name: publication for publication in (*(record.published or ()), *records)
    }
    changed = record.model_copy(update={"published": list(merged.values()) or None})
    return Ledger({**ledger.revisions, revision: changed})


def _record(
    ledger: Ledger,
    target: TargetRevision,
    publish_target: PublishTarget,
    reported: PublishedTarget | None,
    files: Mapping[str, str] | None,
    failure: PublicationError | None,
    time: str,
) -> Publication | None:
    fresh = Publication(
        name=publish_target.name,
        destination=publications.place(target, publish_target),
        content=publications.content_of(ledger, target, publish_target),
        time=time,
    )
    publication = publications.current(ledger, target, publish_target)
    if reported is not None and reported.error is None:
        if not publications.awaits_statement(publication, target, publish_target):
            held = _content(target, publish_target, reported, files, publication)
            if held is not None and "digest" not in held and publication is not None:
                # What an earlier attempt has published is still there, under the names of its time.
                taken = time if publication.error is not None else publication.time
                return publication.model_copy(update={**held, "error": None, "time": taken})
            if held is not None:
                return fresh.model_copy(update=held)
        elif _is_signed(publication, publish_target, reported):
            signed = {"attestation": reported.attestation, "attestation_due": None, "files": None}
            if publish_target.hugging_face is None:
                return publication.model_copy(update={**signed, "error": None})
            # The branch has moved.
            content = {"digest": reported.digest, "manifest": reported.manifest}
            tags = {"tags": [*publish_target.moving_names], "bytes": reported.bytes}
            return fresh.model_copy(update={**content, **tags, **signed})
    if failure is None:
        return None
    if reported is not None and reported.error is not None:
        message = printable(reported.error.message)[:MOST_CHARACTERS]
        failure = PublicationError(reason=reported.error.reason, message=message)
    # What an earlier attempt published is still there, and the content without all its tags.
    failed = (publication or fresh).model_copy(update={"error": failure, "time": time})
    if failed.digest is None and reported is not None and reported.digest is not None:
        failed = failed.model_copy(update={"digest": reported.digest})
    return failed


def _is_signed(
    publication: Publication, publish_target: PublishTarget, reported: PublishedTarget
) -> bool:
    """Report whether a target holds the content together with the statement about it."""
    if reported.attestation is None or reported.digest is None:
        return False
    if publish_target.hugging_face is not None:
        return publication.manifest == reported.manifest
    return publication.digest == reported.digest


def _content(
    target: TargetRevision,
    publish_target: PublishTarget,
    reported: PublishedTarget,
    files: Mapping[str, str] | None,
    publication: Publication | None,
) -> dict[str, Any] | None:
    """Return what a target holds after an attempt that has published the content.

    None if it has not. A hub may only have the files listed, which the operator is about to sign.
    """
    if reported.digest is None:
        lists = publish_target.hugging_face is not None and reported.manifest is not None
        if target.config.signing_key is None or not lists:
            return None
        return {
            "manifest": reported.manifest,
            "bytes": reported.bytes,
            "attestation_due": True,
            "files": _files(reported, files),
        }
    # Other tags do not change the digest, which the statement is about.
    same = publication is not None and publication.digest == reported.digest
    attestation = publication.attestation if publication is not None and same else None
    # A hub that got the content without a statement: an earlier image cannot list the files first.
    keeps = publish_target.oci is not None or publish_target.s3 is not None
    due = keeps and target.config.signing_key is not None and attestation is None
    return {
        "digest": reported.digest,
        "manifest": reported.manifest,
        "tags": [*publish_target.moving_names] or None,
        "bytes": reported.bytes,
        "attestation": attestation,
        "attestation_due": True if due else None,
        "files": _files(reported, files) if due and publish_target.s3 is not None else None,
    }


def _files(reported: PublishedTarget, files: Mapping[str, str] | None) -> str | None:
    """Return the list of the files that a target holds; None if it is missing or about others."""
    text = (files or {}).get(reported.manifest or "", "")
    try:
        named = file_list.unpack(text)
    except ValueError:
        return None
    return text if named.get(MANIFEST) == reported.manifest else None
