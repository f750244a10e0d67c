"""Adds signed statements to a folder that an earlier attempt has published in a bucket.

Next to the files, the folder gets the provenance and, if the operator has signed the list of files,
``model.sig``. Both are written once, as all other objects. An earlier attempt may have written the
provenance and not have reported it: what the operator says about the same content may be different
since, but what it has signed stays true.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import (
    MANIFEST,
    MODEL_SIGNATURE_FILE,
    PROVENANCE_FILE,
)
from finetune_api.contracts.publish_targets import PublishTargetRequest, S3Target
from finetune_trainer.publishing import statement
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.s3 import errors as s3_errors
from finetune_trainer.publishing.s3 import objects
from finetune_trainer.publishing.s3.client import connected
from finetune_trainer.publishing.s3.objects import DIGEST
from finetune_trainer.publishing.s3.read_back import read_back
from finetune_trainer.publishing.statement import SignedStatement
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.publishing.transfer import Transfer
from finetune_trainer.signatures import statements


def attest(
    target: PublishTargetRequest,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Add the statements in the request as bundles next to the files.

    Raise TargetError or TrainerError.
    """
    assert target.s3 is not None
    signed = statement.of(target)
    with s3_errors.named(target.name, target.s3.uri):
        folder, provenance = _attest(target, target.s3, signed, transfer, environment)
    outcome.completed(f"{folder}/", signed.subject)
    outcome.attestation = hashlib.sha256(attestation.opened(provenance).payload).hexdigest()


def _attest(
    target: PublishTargetRequest,
    place: S3Target,
    signed: SignedStatement,
    transfer: Transfer,
    environment: Mapping[str, str],
) -> tuple[str, bytes]:
    """Return the folder with the statements, and the provenance that it has."""
    bucket, _, prefix = place.uri.removeprefix("s3://").partition("/")
    folder = "/".join(filter(None, (prefix, signed.subject.replace(":", "-"))))
    with connected(target.name, place, environment) as client:
        if objects.head(client, objects.named(bucket, f"{folder}/{MANIFEST}")) is None:
            raise TargetRejected(
                f"s3://{bucket}/{folder}/ was published and is gone: set spec.rerun to a new "
                "value, or remove the target, and add it again under another name"
            )
        provenance = _earlier(client, bucket, folder, signed, environment) or signed.bundle
        for file, bundle in _bundles(client, bucket, folder, signed, provenance):
            key, digest = f"{folder}/{file}", hashlib.sha256(bundle).hexdigest()
            name = objects.named(bucket, key)
            present = objects.head(client, name)
            if present is None:
                objects.put(client, name, bundle, {DIGEST: digest})
                transfer.sent += len(bundle)
            elif present["Metadata"].get(DIGEST) != digest:
                raise TargetConflict(
                    f"s3://{bucket}/{key} exists with another statement, and objects are never "
                    "replaced: delete this object, and publish again"
                )
            read_back(client, bucket, key, len(bundle), digest, transfer)
    return f"s3://{bucket}/{folder}", provenance


def _earlier(
    client: Any,
    bucket: str,
    folder: str,
    signed: SignedStatement,
    environment: Mapping[str, str],
) -> bytes | None:
    """Return the provenance in the folder if the operator has signed it about this content."""
    key, pem = f"{folder}/{PROVENANCE_FILE}", environment.get(attestation.KEY_VARIABLE)
    if pem is None or objects.head(client, objects.named(bucket, key)) is None:
        return None
    document = _read(client, bucket, key)
    try:
        operator = statements.public_key(pem.encode())
        statement = statements.checked(document, [operator], name=key)
    except (statements.InvalidKey, statements.NotSigned):
        return None
    return document if statements.is_about(statement, signed.subject) else None


def _read(client: Any, bucket: str, key: str) -> bytes:
    with closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
        content: bytes = body.read(attestation.LONGEST)
    return content


def _bundles(
    client: Any, bucket: str, folder: str, signed: SignedStatement, provenance: bytes
) -> Iterator[tuple[str, bytes]]:
    """Yield the files to add with their contents."""
    yield PROVENANCE_FILE, provenance
    if signed.model_signature is None:
        return
    key = f"{folder}/{MANIFEST}"
    content = _read(client, bucket, key)
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != signed.subject:
        raise TargetRejected(
            f"s3://{bucket}/{key} has other bytes than were sent: delete this object, and publish "
            "again"
        )
    yield MODEL_SIGNATURE_FILE, statement.model_bundle(signed, content)
