"""The statement about a published model: in-toto version 1 with a SLSA provenance predicate.

Its first subject is what the target holds: the manifest of the image, or manifest.json of a folder.
Other files are no subjects, because a tenant chooses the bytes of some, such as the chat template:
they could be the manifest of another image, and programs that verify images accept a statement if
any of its subjects is the image.

Texts of a tenant's recipe that are long, such as chat templates, are named by their digest, and so
are long recipes.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import BUILD_TYPE, BUILDER, MANIFEST, Statement
from finetune_api.markers import Edit
from finetune_api.revision_hash import part_of, text_digest
from finetune_operator.provenance.evidence import byproducts
from finetune_operator.provenance.facts import Facts, Values, present, sha256
from finetune_operator.provenance.inputs import dependencies
from finetune_operator.revisions.publishing import publications

LONGEST_TEXT = 256
"""Characters of a text of the recipe."""
LONGEST = 9_000
"""Bytes. The statements of eight targets are in one argument of a container, in base64, and Linux
limits an argument to 128 KiB."""


def statement(facts: Facts) -> Statement:
    """Return the statement about a publication, which has a digest.

    If it would be too long, the recipe is named by its digest, and the inputs are not described.
    """
    full = _statement(facts)
    if len(attestation.canonical(full)) <= LONGEST:
        return full
    return _statement(facts, brief=True)


def _statement(facts: Facts, *, brief: bool = False) -> Statement:
    return {
        "_type": attestation.STATEMENT_TYPE,
        "subject": _subjects(facts),
        "predicateType": attestation.PROVENANCE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _requested(facts, _named if brief else _short),
                "internalParameters": _frozen(facts),
                "resolvedDependencies": dependencies(facts, brief=brief),
            },
            "runDetails": {
                "builder": present(id=BUILDER, version=_version(facts)),
                "metadata": present(
                    invocation_id=_invocation(facts),
                    started_on=facts.record.training_started,
                    # After a failure, the time is that of the attempt that failed.
                    finished_on=None if facts.publication.error else facts.publication.time,
                ),
                "byproducts": byproducts(facts),
            },
        },
    }


def _subjects(facts: Facts) -> list[Values]:
    publication = facts.publication
    if facts.place.hugging_face is not None:
        # The statement is part of the commit, which it therefore cannot name.
        names = (facts.place.destination, MANIFEST)
        return [{"name": name, "digest": {"sha256": publication.manifest}} for name in names]
    name = facts.place.oci.repository if facts.place.oci is not None else None
    if name is None:
        name = publications.reference(facts.place, publication)
    digests = {str(name): sha256(publication.digest)}
    if facts.place.s3 is not None:
        digests.setdefault(MANIFEST, sha256(publication.digest))
    elif publication.manifest is not None:
        digests.setdefault(MANIFEST, publication.manifest)
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()]


def _requested(facts: Facts, written: Callable[[Any], Any]) -> Values:
    """Return what the job asked for, with all defaults: the fields that affect the model.

    written: returns a part of the spec as it is written.
    """
    metadata, spec = facts.job["metadata"], facts.target.resolved.spec
    return present(
        job=present(namespace=metadata["namespace"], name=metadata["name"]),
        what=facts.place.what,
        recipe=written(part_of(spec, Edit.RETRAIN)),
        merge=written(part_of(spec, Edit.REMERGE)),
    )


def _frozen(facts: Facts) -> Values:
    target = facts.target
    return present(
        revision=present(name=target.revision, sha256=target.frozen.digest),
        build=present(name=target.build, sha256=target.resolved.build_digest),
        job_file=present(sha256=target.frozen.job_digest),
        operator_file=present(sha256=target.frozen.operator_digest),
        images=target.config.images.model_dump(mode="json", by_alias=True),
    )


def _version(facts: Facts) -> Values:
    image = facts.target.config.images.operator
    return present(operator=image)


def _invocation(facts: Facts) -> str | None:
    """Return what identifies the training: the job's UID and the revision."""
    uid = facts.job["metadata"].get("uid")
    return None if uid is None else f"{uid}/{facts.target.revision}"


def _named(value: Any) -> Any:
    """Return the digest of a part of a spec."""
    return {"sha256": hashlib.sha256(attestation.canonical(value)).hexdigest()} if value else None


def _short(value: Any) -> Any:
    """Return a value of a spec in which each long text is replaced by its digest."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return {"sha256": text_digest(value), "characters": len(value)}
    return value
