"""``model.sig`` of a folder, as model_signing (OpenSSF) writes it for ``ftj verify`` to read."""

from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.provenance.attestation import model_statement
from finetune_operator.provenance import signed
from finetune_operator.signing import SigningKey


def model_signature(name: str, files: Mapping[str, str], key: SigningKey) -> dict[str, Any]:
    """Return ``model.sig`` of a folder. files: SHA-256 (hex) of all its files by path."""
    return signed.bundle(model_statement(name, files), key)
