"""Sign an image, and attest its bill of materials and its provenance, with cosign."""

from __future__ import annotations

import re
from pathlib import Path

from supplychain.provenance import PREDICATE_TYPE

REFERENCE = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def options(key: str, *, log: bool) -> list[str]:
    """Return the options of every command that signs.

    key: a key of cosign, such as a KMS URI; empty signs without a key, with the identity of the
    build platform. log: whether the signature is published in the transparency log.
    """
    return ["--yes", *(["--key", key] if key else []), *([] if log else ["--tlog-upload=false"])]


def commands(
    image: str, *, sbom: Path, provenance: Path, key: str = "", log: bool = True
) -> list[list[str]]:
    """Return the commands for an image; key and log as for ``options``.

    Raises ValueError if the image has no digest: a tag can move later.
    """
    if REFERENCE.fullmatch(image) is None:
        raise ValueError(f"image {image!r} has no digest: append @sha256: and 64 hex digits")
    signed = options(key, log=log)
    attest = ["cosign", "attest", *signed]
    return [
        ["cosign", "sign", *signed, image],
        [*attest, "--type", "spdxjson", "--predicate", str(sbom), image],
        [*attest, "--type", PREDICATE_TYPE, "--predicate", str(provenance), image],
    ]
