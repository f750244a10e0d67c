"""Adds a signed statement to a folder that an earlier attempt has published in a bucket."""

import base64
import hashlib
import os
import zlib
from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.attestation import MANIFEST, PROVENANCE_FILE
from finetune_api.contracts.stage_request import PublishTargetRequest, S3Target
from finetune_trainer.publishing import statement
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.s3 import errors as s3_errors
from finetune_trainer.publishing.s3.client import connected
from finetune_trainer.publishing.s3.push import DIGEST
from finetune_trainer.publishing.s3.read_back import read_back
from finetune_trainer.publishing.statement import SignedStatement
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.publishing.transfer import Transfer


def attest(
    target: PublishTargetRequest,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Add the statement in the request as a bundle next to the files.

    Raise TargetError or TrainerError.
    """
    assert target.s3 is not None
    signed = statement.of(target)
    with s3_errors.named(target.name, target.s3.uri):
        folder = _attest(target, target.s3, signed, transfer, environment)
    outcome.found(f"{folder}/", signed.subject)
    outcome.attestation = signed.digest


def _attest(
    target: PublishTargetRequest,
    place: S3Target,
    signed: SignedStatement,
    transfer: Transfer,
    environment: Mapping[str, str],
) -> str:
    """Return the folder with the statement."""
    bucket, _, prefix = place.uri.removeprefix("s3://").partition("/")
    folder = "/".join(filter(None, (prefix, signed.subject.replace(":", "-"))))
    key, digest = f"{folder}/{PROVENANCE_FILE}", hashlib.sha256(signed.bundle).hexdigest()
    with connected(target.name, place, environment) as client:
        if _head(client, bucket, f"{folder}/{MANIFEST}") is None:
            raise TargetRejected(
                f"s3://{bucket}/{folder}/ was published and is gone: set spec.rerun to a new "
                "value, or remove the target, and add it again under another name"
            )
        present = _head(client, bucket, key)
        if present is None:
            checksum = base64.b64encode(zlib.crc32(signed.bundle).to_bytes(4, "big")).decode()
            client.put_object(
                Bucket=bucket,
                Key=key,
                Body=signed.bundle,
                ChecksumCRC32=checksum,
                Metadata={DIGEST: digest},
                IfNoneMatch="*",
            )
            transfer.sent += len(signed.bundle)
        elif present["Metadata"].get(DIGEST) != digest:
            raise TargetConflict(
                f"s3://{bucket}/{key} exists with another statement, and objects are never "
                "replaced: delete this object, and publish again"
            )
        read_back(client, bucket, key, len(signed.bundle), digest, transfer)
    return f"s3://{bucket}/{folder}"


def _head(client: Any, bucket: str, key: str) -> Any:
    """Return the properties of an object; None if it does not exist."""
    import botocore.exceptions

    try:
        return client.head_object(Bucket=bucket, Key=key)
    except botocore.exceptions.ClientError as error:
        if s3_errors.status_of(error) != 404:
            raise
        return None
