"""Signatures of folders as model_signing makes them, which ``ftj verify`` reads."""

import hashlib
from collections.abc import Mapping
from typing import Any

from finetune_api.contracts import attestation
from finetune_operator.provenance import signed
from finetune_operator.signing import SigningKey


def model_signature(name: str, files: Mapping[str, str], key: SigningKey) -> dict[str, Any]:
    """Return ``model.sig`` of a folder. files: SHA-256 (hex) of all its files by path."""
    return signed.bundle(_statement(name, files), key)


def _statement(name: str, files: Mapping[str, str]) -> dict[str, Any]:
    ordered = sorted(files.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    return {
        "_type": attestation.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": attestation.MODEL_SIGNATURE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(attestation.FILES),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered
            ],
        },
    }
