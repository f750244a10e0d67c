"""Signed statements that a registry keeps next to an image, as they are. Nothing is checked here.

Until version 2, cosign stores envelopes under the tag ``sha256-HEX.att``. Later versions store
bundles that refer to the image: the registry lists them itself, or under the tag ``sha256-HEX``.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from finetune_api.contracts.provenance.attestation import BUNDLE_MARK, BUNDLE_TYPE, ENVELOPE_TYPE
from finetune_api.safety import untrusted_json
from finetune_trainer.sources.oci.image_manifest import DIGEST
from finetune_trainer.sources.oci.registry_errors import RegistryError

MOST = 32
"""Statements of an image that are read; everyone who may write to the repository may add some."""

Get = Callable[[str], bytes | None]
"""Returns a document below a repository, such as ``manifests/TAG``; None if there is none."""


class Malformed(RegistryError):
    """A document is no list of signed statements."""


def documents(get: Get, digest: str) -> Iterator[bytes]:
    """Yield envelopes and bundles about the image with a digest, ``sha256:HEX``. Raise Malformed.

    Their number is limited.
    """
    return islice(_documents(get, digest), MOST)


def tag_of(digest: str) -> str:
    """Return the tag of the statements that cosign stores until version 2."""
    return f"{digest.replace(':', '-')}.att"


def _documents(get: Get, digest: str) -> Iterator[bytes]:
    yield from _layers(get, f"manifests/{tag_of(digest)}", ENVELOPE_TYPE)
    path = f"referrers/{digest}"
    index = get(path)
    if index is None:
        path = f"manifests/{digest.replace(':', '-')}"
        index = get(path)
    if index is None:
        return
    for entry in islice(_entries(index, "manifests", path), MOST):
        if _is_bundle(entry):
            yield from _layers(get, f"manifests/{entry['digest']}", BUNDLE_TYPE)


def _is_bundle(entry: dict[str, Any]) -> bool:
    """Report whether an entry in a list of referrers is a bundle.

    Some registries list the type of its empty configuration; annotations are the same everywhere.
    """
    annotations = entry.get("annotations")
    marked = isinstance(annotations, dict) and BUNDLE_MARK in annotations
    return marked or entry.get("artifactType") == BUNDLE_TYPE


def _layers(get: Get, path: str, media_type: str) -> Iterator[bytes]:
    manifest = get(path)
    if manifest is None:
        return
    for layer in islice(_entries(manifest, "layers", path), MOST):
        if layer.get("mediaType") == media_type:
            content = get(f"blobs/{layer['digest']}")
            if content is not None:
                yield content


def _entries(document: bytes, field: str, path: str) -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = untrusted_json.parse(document)[field]
        # A digest becomes a part of a path.
        valid = isinstance(entries, list) and all(
            DIGEST.fullmatch(entry["digest"]) for entry in entries
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Malformed(
            f"{path} is no list of signed statements ({error!r}): sign the image again"
        ) from None
    if not valid:
        raise Malformed(f"{path} is no list of signed statements: sign the image again")
    return entries
