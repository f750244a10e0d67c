"""A folder of a source with ``model.sig``, as an administrator signs it."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.support.model_signature import model_signature
from tests.support.signing_keys import KEY

from finetune_api.contracts.provenance import attestation
from finetune_api.contracts.provenance.signatures import RequiredSignature
from finetune_operator.signing import SigningKey


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of the files of a folder by name, without signatures."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in attestation.FILES
    }


def sign(folder: Path, key: SigningKey = KEY) -> None:
    """Write ``model.sig`` for the files that a folder has now."""
    bundle = model_signature(folder.name, digests(folder), key)
    (folder / attestation.MODEL_SIGNATURE_FILE).write_text(json.dumps(bundle))


def required(
    *sources: str, keys: tuple[SigningKey, ...] = (KEY,), **fields: Any
) -> RequiredSignature:
    """Return an entry of ``policy.signatures``."""
    pems = tuple(each.public_key.decode() for each in keys)
    return RequiredSignature(sources=sources or (".*",), keys=pems, **fields)
