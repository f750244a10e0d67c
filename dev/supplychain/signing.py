"""Sign an image, and attest its bill of materials and its provenance, with cosign."""

from __future__ import annotations

import re
from pathlib import Path

from supplychain.provenance import PREDICATE_TYPE

REFERENCE = re.compile(r"\S+@sha256:[0-9a-f]{64}")


def commands(image: str, *, sbom: Path, provenance: Path, key: str = "") -> list[list[str]]:
    """Return the commands for an image.

    key: a key of cosign, such as a KMS URI; empty signs without a key, with the identity of the
    build platform. Raises ValueError if the image has no digest: a tag can move later.
    """
    if REFERENCE.fullmatch(image) is None:
        raise ValueError(f"image {image!r} has no digest: append @sha256: and 64 hex digits")
    options = ["--yes", *(["--key", key] if key else [])]
    attest = ["cosign", "attest", *options]
    return [
        ["cosign", "sign", *options, image],
        [*attest, "--type", "spdxjson", "--predicate", str(sbom), image],
        [*attest, "--type", PREDICATE_TYPE, "--predicate", str(provenance), image],
    ]
