"""Statements whose signature was checked. Only these are ever interpreted."""

import hashlib
from collections.abc import Collection

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.attestation import MANIFEST, Statement
from finetune_trainer.checkpointing import manifest

PublicKey = ec.EllipticCurvePublicKey


class InvalidKey(ValueError):
    """A text has no public key that can be used; the message says why."""


class NotSigned(Exception):
    """A document is no statement of one of the keys; the text names the document and the cause."""


def public_key(pem: bytes) -> PublicKey:
    """Return the public key in a text in PEM format. Raise InvalidKey."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidKey("has no public key in PEM format") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidKey("has another kind of key than elliptic curve keys with the curve P-256")
    return key


def checked(document: bytes, keys: Collection[PublicKey], *, name: str) -> Statement:
    """Return the statement in a bundle or an envelope that one of the keys has signed.

    name: of the document, for errors. Raise NotSigned.
    """
    try:
        opened = attestation.opened(document)
    except attestation.Malformed as error:
        raise NotSigned(f"{name} cannot be checked: {error}") from None
    data = attestation.signed_bytes(opened.payload)
    if not any(_is_valid(key, signature, data) for key in keys for signature in opened.signatures):
        which = "the key" if len(keys) == 1 else f"one of the {len(keys)} keys"
        raise NotSigned(
            f"{name} has no valid signature of {which}: it was signed with another key, or changed "
            "since"
        )
    try:
        return attestation.statement(opened.payload)
    except attestation.Malformed as error:
        raise NotSigned(f"{name} cannot be used: {error}") from None


def named_files(statement: Statement) -> dict[str, str]:
    """Return the SHA-256 (hex) of the files that a statement names. Raise attestation.Malformed.

    If they include ``manifest.json``, that file names further ones (``listed_files``).
    """
    listed = attestation.files(statement)
    if listed is not None:
        return listed
    # The first subject is the content at the target.
    _, *subjects = attestation.subjects(statement).items()
    return dict(subjects)


def listed_files(content: bytes, named: dict[str, str]) -> dict[str, str]:
    """Return the files in the content of ``manifest.json`` as well. Raise ValueError.

    named: files that a statement names, with ``manifest.json``.
    """
    if hashlib.sha256(content).hexdigest() != named[MANIFEST]:
        raise ValueError("it has another digest than in the statement")
    try:
        entries = manifest.parse(content.decode()).files
    except (KeyError, TypeError) as error:
        raise ValueError(repr(error)) from None
    return {entry.name: entry.sha256 for entry in entries} | named


def is_about(statement: Statement, digest: str) -> bool:
    """Report whether a statement is about the image with a digest, ``sha256:HEX``.

    That is its first subject. The others are files, whose bytes a tenant may have chosen.
    """
    first = next(iter(attestation.subjects(statement).values()))
    return f"sha256:{first}" == digest and statement["predicateType"] in _ABOUT_IMAGES


_ABOUT_IMAGES = (attestation.PROVENANCE_TYPE, attestation.COSIGN_SIGNATURE_TYPE)
"""Not those that the same key may have signed about a scan or a bill of materials."""


def _is_valid(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
