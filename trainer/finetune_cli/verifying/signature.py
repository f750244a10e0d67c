"""Statements whose signature was checked. Only these are ever interpreted."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_api.contracts import attestation
from finetune_api.contracts.attestation import Statement
from finetune_api.safety import untrusted_file
from finetune_cli.errors import CommandFailed
from finetune_cli.verifying.failures import Code, fail

PublicKey = ec.EllipticCurvePublicKey


def public_key(path: Path) -> PublicKey:
    """Return the public key in a file. Raise CommandFailed."""
    try:
        key = serialization.load_pem_public_key(untrusted_file.read_bytes(path))
    except OSError as error:
        raise CommandFailed(f"--key {path}: {error.strerror}: name a file") from error
    except (ValueError, UnsupportedAlgorithm):
        raise CommandFailed(
            f"--key {path} has no public key in PEM format: get the public key of the operator "
            "from its administrator, who finds the command in the notes of the chart"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CommandFailed(
            f"--key {path} has another kind of key than the operator signs with: name an elliptic "
            "curve key with the curve P-256"
        )
    return key


def checked(document: bytes, key: PublicKey, *, name: str) -> Statement:
    """Return the statement in a bundle or an envelope that the key has signed.

    name: of the document, for errors. Raise NotVerified.
    """
    try:
        found = attestation.opened(document)
    except attestation.Malformed as error:
        fail(Code.NOT_SIGNED, f"{name} cannot be checked: {error}")
    data = attestation.signed_bytes(found.payload)
    if not any(_is_valid(key, each, data) for each in found.signatures):
        fail(
            Code.NOT_SIGNED,
            f"{name} has no valid signature of the key: it was signed with another key, or changed "
            "since. Do not use the model, or compare the key with the one of the administrator",
        )
    try:
        return attestation.statement(found.payload)
    except attestation.Malformed as error:
        fail(Code.NOT_SIGNED, f"{name} cannot be used: {error}")


def _is_valid(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
