"""Statements in envelopes that are signed with the operator's key."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import Statement
from finetune_api.contracts.publish_targets import ModelSignature
from finetune_operator.signing import SigningKey


def envelope(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """Return the signed statement as a DSSE envelope: an attestation of an OCI image."""
    payload = attestation.canonical(statement)
    return attestation.envelope(payload, key.sign(attestation.signed_bytes(payload)))


def bundle(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """Return the signed statement as a Sigstore bundle, which is stored next to files."""
    return attestation.bundle(envelope(statement, key), key.public_key)


def model_signature(
    files: Mapping[str, str], key: SigningKey, *, on_hub: bool = False
) -> ModelSignature:
    """Return the signature of the files of a folder, without the statement, which can be long.

    files: SHA-256 (hex) of all files of a published folder by path. on_hub: whether the folder is
    a repository on a hub.
    """
    payload = attestation.canonical(attestation.folder_statement(files, on_hub=on_hub))
    signature = key.sign(attestation.signed_bytes(payload))
    return ModelSignature(
        signature=base64.b64encode(signature).decode(), payload=hashlib.sha256(payload).hexdigest()
    )
