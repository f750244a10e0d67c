"""Statements in envelopes that are signed with the operator's key."""

from typing import Any

from finetune_api.contracts import attestation
from finetune_api.contracts.attestation import Statement
from finetune_operator.signing import SigningKey


def envelope(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """Return the signed statement as a DSSE envelope: an attestation of an OCI image."""
    payload = attestation.canonical(statement)
    return attestation.envelope(payload, key.sign(attestation.signed_bytes(payload)))


def bundle(statement: Statement, key: SigningKey) -> dict[str, Any]:
    """Return the signed statement as a Sigstore bundle, which is stored next to files."""
    return attestation.bundle(envelope(statement, key), key.public_key)
