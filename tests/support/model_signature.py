"""``model.sig`` of a folder, as model_signing (OpenSSF) writes it for ``ftj verify`` to read."""

import hashlib
from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.attestation import (
    FILES,
    MODEL_SIGNATURE_TYPE,
    STATEMENT_TYPE,
    Statement,
)
from finetune_operator.provenance import signed
from finetune_operator.signing import SigningKey


def model_signature(name: str, files: Mapping[str, str], key: SigningKey) -> dict[str, Any]:
    """Return ``model.sig`` of a folder. files: SHA-256 (hex) of all its files by path."""
    return signed.bundle(_model_statement(name, files), key)


def _model_statement(name: str, files: Mapping[str, str]) -> Statement:
    """Return the statement about the files of a folder that model_signing reads.

    name: of the model. files: SHA-256 (hex) by path in the folder.
    """
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": MODEL_SIGNATURE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(FILES),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered
            ],
        },
    }
