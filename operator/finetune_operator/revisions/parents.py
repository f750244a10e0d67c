"""``training.startFrom.job``: the published adapter of another job in the namespace. Pure.

It is resolved when a revision starts, from what the ledger of the other job says about its targets,
and frozen with the revision: neither an edit of the other job nor its deletion changes it. Nothing
of the other job's access is used. The credentials are those that the author of this job wrote next
to ``startFrom``: the author of the other job decides where the adapter is.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api.default_credentials import ACCOUNT
from finetune_api.defaulting import Resolved
from finetune_api.fitting import targets_of
from finetune_api.layering import has
from finetune_api.v1alpha1.publishing.publication import Publication
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.sources import HF_SOURCE_PREFIX, OCI_SOURCE_PREFIX, S3
from finetune_api.v1alpha1.status.ledger import ParentAdapter, Revision
from finetune_api.v1alpha1.training.start_from import START_FROM, StartFrom, StartJob
from finetune_operator.connections import Hub
from finetune_operator.objects import status_view
from finetune_operator.revisions.documents import thawed
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Object

FIELD = f"spec.{START_FROM}.job"
REMEMBERED = 256


class UnavailableParent(Exception):
    """A revision cannot start yet; the message names the job, and what its author can do."""

    reason = Reason.ADAPTER_NOT_PUBLISHED


def wanted(resolved: Resolved) -> StartJob | None:
    """Return the job whose adapter a spec continues from, or None."""
    start = resolved.spec.training.start_from
    return None if start is None else start.job


def find(job: Object, resolved: Resolved, parent: Object | None, hub: Hub) -> ParentAdapter:
    """Return the published adapter that a spec asks for.

    parent: the job that it names; hub: of the sources of this job. Raise UnavailableParent.
    """
    start, asked = resolved.spec.training.start_from, wanted(resolved)
    assert start is not None
    assert asked is not None
    if parent is None:
        raise UnavailableParent(
            f"{FIELD}.name: there is no FineTuneJob {asked.name} in the namespace "
            f"{job['metadata']['namespace']}. Correct the name, or create this job; training then "
            "starts as soon as it has published its adapter."
        )
    record = _revision(parent, asked)
    problems = []
    for target, adapter in _published(parent, record, hub):
        problem = _problem(job, start, target, adapter)
        if problem is None:
            return adapter
        problems.append(problem)
    if problems:
        raise UnavailableParent(problems[0])
    raise UnavailableParent(
        f"{FIELD}: revision {record.revision} of FineTuneJob {asked.name} has not published its "
        "adapter. Add a target with what: adapter to spec.publish of that job, or wait until its "
        "condition Published is True. To continue from an earlier revision, set "
        f"{FIELD}.revision."
    )


def _revision(parent: Object, asked: StartJob) -> Revision:
    status = status_view.of_job(parent)
    ledger = Ledger.parse(status.ledger, status.ledger_version)
    name = asked.revision or status.revision
    record = ledger.revisions.get(name or "")
    if record is None:
        retained = ", ".join(ledger.revisions) or "none"
        raise UnavailableParent(
            f"{FIELD}: FineTuneJob {asked.name} has no revision {name or 'yet'} (its "
            f"status.revisions has: {retained}). Set {FIELD}.revision to one of these revisions, "
            "or wait until that job has trained."
        )
    return record


def _published(
    parent: Object, record: Revision, hub: Hub
) -> Iterator[tuple[PublishTarget | None, ParentAdapter]]:
    """Yield the places that hold the adapter of a revision, with the present targets there."""
    manifest, frozen = record.artifacts.adapter_manifest, record.frozen
    if manifest is None or frozen is None:
        return
    targets = {
        publish_target.name: publish_target for publish_target in _targets(parent, frozen.operator)
    }
    for publication in record.published or ():
        # The merged model and a tracking server have another content.
        if publication.digest is None or publication.content != manifest:
            continue
        target = targets.get(publication.name)
        if target is not None and publication.destination not in (
            target.destination,
            _at(target, hub),
        ):
            target = None
        place = _place(publication, target, hub)
        if place is not None:
            yield (
                target,
                ParentAdapter(
                    job=parent["metadata"]["name"],
                    revision=record.revision,
                    revision_digest=frozen.digest,
                    digest=publication.digest,
                    **{"manifest": publication.manifest, **place},
                ),
            )


def _targets(parent: Object, operator: str) -> Iterator[PublishTarget]:
    """Yield the targets of a job: those in its spec, or those of its frozen defaults."""
    try:
        entries = targets_of(parent["spec"]) or targets_of(thawed(operator)[0].defaults) or ()
        yield from (PublishTarget.model_validate(entry, by_name=False) for entry in entries)
    except ValueError:
        # Of another version: which credentials the targets need is not known.
        return


def _at(target: PublishTarget, hub: Hub) -> str | None:
    repository = target.hugging_face
    return None if repository is None else hub.place(repository.repo)


def _place(
    publication: Publication, target: PublishTarget | None, hub: Hub
) -> dict[str, Any] | None:
    """Return the fields of a ParentAdapter about its place; None if that is another hub."""
    digest, place = str(publication.digest), publication.destination
    if place.startswith(OCI_SOURCE_PREFIX):
        return {"source": f"{place}@{digest}"}
    own_hub = hub.place("")
    if place.startswith(own_hub):
        repository = f"{HF_SOURCE_PREFIX}{place.removeprefix(own_hub)}"
        return {"source": repository, "commit": digest.removeprefix("sha1:")}
    parts, folder = urlsplit(place), digest.replace(":", "-")
    s3 = None if target is None else target.s3
    # The folder has the name of the digest of its manifest.json.
    fields = {"manifest": digest.partition(":")[2], "region": None if s3 is None else s3.region}
    if parts.scheme == "s3":
        return {"source": f"{place}/{folder}", **fields}
    if parts.scheme in ("http", "https"):
        endpoint = f"{parts.scheme}://{parts.netloc}"
        return {"source": f"s3:/{parts.path}/{folder}", "endpoint": endpoint, **fields}
    return None


def _problem(
    job: Object, start: StartFrom, target: PublishTarget | None, adapter: ParentAdapter
) -> str | None:
    """Return why a job cannot read an adapter, None if it can.

    target: None if it is no longer in the spec of the other job, and may need credentials.
    """
    where = f"{FIELD}: the adapter of FineTuneJob {adapter.job} is at {adapter.source}"
    try:
        started_from(start, adapter)
    except ValidationError as error:
        return f"{where}, which is no source that a job can read ({error.errors()[0]['msg']})"
    scheme = adapter.source.split("://", 1)[0]
    if scheme == "oci":
        needed = target is None or target.secret is not None
        field, present = "oci.secretRef", start.oci is not None and start.oci.secret_ref is not None
    elif scheme == "hf":
        needed = target is None or target.hugging_face is None or target.hugging_face.private
        field, present = "tokenSecretRef", start.token_secret_ref is not None
    else:
        needed = True
        account = has(job["spec"], *ACCOUNT)
        field, present = "s3.secretRef", start.s3.secret_ref is not None or account
    if present or not needed:
        return None
    return (
        f"{where}, which needs credentials, and those of the other job and of the defaults are not "
        f"used for it: set spec.{START_FROM}.{field} to a Secret in this namespace"
    )


def started_from(start: StartFrom, adapter: ParentAdapter) -> StartFrom:
    """Return ``startFrom`` with the place of an adapter as its source. Raise ValidationError."""
    checked = StartFrom(
        source=adapter.source,
        revision=adapter.commit,
        s3=S3(**{"endpoint": adapter.endpoint} if adapter.endpoint else {}),
    )
    scheme = adapter.source.split("://", 1)[0]
    s3 = {"endpoint": checked.s3.endpoint, "region": adapter.region or start.s3.region}
    return start.model_copy(
        update={
            "source": checked.source,
            "revision": checked.revision,
            "token_secret_ref": start.token_secret_ref if scheme == "hf" else None,
            "oci": start.oci if scheme == "oci" else None,
            "s3": start.s3.model_copy(update=s3) if scheme == "s3" else S3(),
        }
    )


@lru_cache(maxsize=REMEMBERED)
def with_parent(resolved: Resolved, adapter: ParentAdapter) -> Resolved:
    """Return a spec with an adapter as its source. Its digests are those of the written spec."""
    spec = resolved.spec
    start = spec.training.start_from
    assert start is not None
    training = spec.training.model_copy(update={"start_from": started_from(start, adapter)})
    return replace(resolved, spec=spec.model_copy(update={"training": training}), parent=adapter)
