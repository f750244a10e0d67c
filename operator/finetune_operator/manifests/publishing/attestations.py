"""The signed statement that a publish Job adds to content that an earlier attempt has published."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.contracts.provenance import attestation, file_list
from finetune_api.v1alpha1.publishing.targets import PublishTarget
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_operator.objects import status_view
from finetune_operator.provenance import signed
from finetune_operator.provenance.facts import Facts
from finetune_operator.provenance.statement import statement
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def environment(target: TargetRevision, entries: Iterable[PublishTarget]) -> list[dict[str, Any]]:
    """Return the variable with the public key, by which statements in a bucket are recognized."""
    key = target.config.signing_key
    if key is None or all(entry.s3 is None for entry in entries):
        return []
    return [{"name": attestation.KEY_VARIABLE, "value": key.public_key.decode()}]


def of_target(
    job: Object, target: TargetRevision, record: Revision, entry: PublishTarget
) -> Mapping[str, Any]:
    """Return the fields of the request with the statement about a target; none before its turn."""
    key, on_hub = target.config.signing_key, entry.hugging_face is not None
    publication = publications.current(Ledger({target.revision: record}), target, entry)
    if key is None or not publications.awaits_statement(publication, target, entry):
        return {"attested": ""} if key is not None and on_hub else {}
    status = status_view.of_job(job)
    facts = Facts(
        job=job,
        target=target,
        record=record,
        place=entry,
        publication=publication,
        gate=status.evaluation if status.build == target.build else {},
        verification=status.verification,
    )
    bundle = signed.bundle(statement(facts), key)
    text = json.dumps(bundle, sort_keys=True, separators=(",", ":"))
    signature = None
    if publication.files is not None:
        files = file_list.unpack(publication.files)
        signature = signed.model_signature(files, key, on_hub=on_hub)
    attested = f"sha256:{publication.manifest}" if on_hub else publication.digest
    return {"attestation": text, "attested": attested, "model_signature": signature}
