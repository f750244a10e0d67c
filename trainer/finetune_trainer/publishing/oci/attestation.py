"""The signed statement about published content, in the forms in which an OCI registry stores it.

cosign before version 3 reads the tag ``sha256-HEX.att``, later versions read referrers. Neither
replaces the statements of others: a tenant may have signed the image, too.
"""

import json
from typing import Any

from finetune_api.contracts.provenance.attestation import BUNDLE_MARK, BUNDLE_TYPE, ENVELOPE_TYPE
from finetune_api.safety import untrusted_json
from finetune_trainer.publishing.oci import image
from finetune_trainer.publishing.oci.image import Blob
from finetune_trainer.publishing.statement import SignedStatement
from finetune_trainer.publishing.target_errors import TargetConflict

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
NO_TIME = "1970-01-01T00:00:00Z"
"""cosign requires a time of creation; equal statements have equal bytes."""


def tagged(signed: SignedStatement, present: bytes | None, name: str) -> tuple[bytes, list[Blob]]:
    """Return the manifest for the tag, with the statements that it already has, and new blobs.

    present: the manifest under the tag. name: of the tag, for errors. Raise TargetConflict.
    """
    layer = image.blob_of(signed.envelope)
    layers = [] if present is None else _entries(present, "layers", name)
    if layer.digest in (descriptor["digest"] for descriptor in layers):
        assert present is not None
        return present, []
    annotations = {
        "dev.cosignproject.cosign/signature": "",
        "predicateType": signed.predicate_type,
    }
    layers = [*layers, _descriptor(ENVELOPE_TYPE, layer) | {"annotations": annotations}]
    config = image.blob_of(
        _json(
            {
                "architecture": "",
                "os": "",
                "config": {},
                "rootfs": {
                    "type": "layers",
                    "diff_ids": [descriptor["digest"] for descriptor in layers],
                },
            }
        )
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": image.MANIFEST_TYPE,
        "config": _descriptor(image.CONFIG_TYPE, config),
        "layers": layers,
    }
    return _json(manifest), [layer, config]


def referrer(signed: SignedStatement, size: int) -> tuple[bytes, list[Blob]]:
    """Return the manifest that refers to the image, and its blobs. size: of the image's own."""
    layer, config = image.blob_of(signed.bundle), image.blob_of(EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": image.MANIFEST_TYPE,
        "artifactType": BUNDLE_TYPE,
        "config": _descriptor(EMPTY_TYPE, config),
        "layers": [_descriptor(BUNDLE_TYPE, layer)],
        "subject": {"mediaType": image.MANIFEST_TYPE, "digest": signed.subject, "size": size},
        "annotations": _annotations(signed),
    }
    return _json(manifest), [layer, config]


def listed(
    signed: SignedStatement, manifest: bytes, present: bytes | None, name: str
) -> bytes | None:
    """Return the list of referrers with one more; None if it has it.

    manifest: of the referrer. present: the list under the fallback tag. Raise TargetConflict.
    """
    entries = [] if present is None else _entries(present, "manifests", name)
    blob = image.blob_of(manifest)
    if blob.digest in (descriptor["digest"] for descriptor in entries):
        return None
    entry = _descriptor(image.MANIFEST_TYPE, blob) | {
        "artifactType": BUNDLE_TYPE,
        "annotations": _annotations(signed),
    }
    return _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*entries, entry]})


def _annotations(signed: SignedStatement) -> dict[str, str]:
    return {
        BUNDLE_MARK: "dsse-envelope",
        "dev.sigstore.bundle.predicateType": signed.predicate_type,
        "org.opencontainers.image.created": NO_TIME,
    }


def _entries(document: bytes, field: str, name: str) -> list[dict[str, Any]]:
    """Return the descriptors in a manifest that someone else may have written."""
    try:
        entries = untrusted_json.parse(document)[field]
        if isinstance(entries, list) and all(
            isinstance(descriptor["digest"], str) for descriptor in entries
        ):
            return entries
    except (ValueError, KeyError, TypeError):
        pass
    raise TargetConflict(
        f"{name} is no list of signed statements, and it is never replaced: delete this tag at the "
        "registry, and publish again"
    )


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
