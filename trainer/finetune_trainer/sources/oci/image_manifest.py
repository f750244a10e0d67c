"""What the manifest of an image says: its layers, or the images of several platforms. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.safety import untrusted_json
from finetune_api.safety.redaction import one_line
from finetune_trainer.sources.oci.registry_errors import RegistryError

IMAGES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
TYPES = (*IMAGES, *INDEXES)
"""What a tag may refer to."""
PLAIN = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
COMPRESSED = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)
LONGEST = 4 << 20
"""Bytes; the specification asks registries to accept manifests up to this size."""
MOST_LAYERS = 4096
MOST_BYTES = 4 << 40
"""Of all layers: two for each of two trillion parameters."""
TITLE = "org.opencontainers.image.title"
PLATFORM = ("linux", "amd64")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST = 1 << 50


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer. ``title`` is the name of its only file, if an annotation states it."""

    digest: str
    size: int
    compressed: bool
    title: str | None


def layers(document: bytes) -> tuple[Layer, ...] | None:
    """Return the layers in the manifest of an image; None for an index. Raise RegistryError."""
    manifest = _parsed(document)
    if "manifests" in manifest:
        return None
    entries = manifest.get("layers")
    if not isinstance(entries, list) or not 0 < len(entries) <= MOST_LAYERS:
        raise RegistryError(
            f"its manifest has no list of 1 to {MOST_LAYERS:,} layers: push the model as an OCI "
            "image, with its files below /models"
        )
    listed = tuple(_layer(entry) for entry in entries)
    if sum(layer.size for layer in listed) > MOST_BYTES:
        raise RegistryError(
            f"its layers have more than {MOST_BYTES >> 40} TiB: name an image of one model"
        )
    return listed


def chosen(document: bytes) -> str:
    """Return the digest of the manifest that an index has for this platform.

    The only image of an index is for every platform: files of a model do not depend on one.
    """
    images = list(_images(_parsed(document)))
    own = [image for image in images if image[0] == PLATFORM]
    if not own and len(images) != 1:
        names = ", ".join(sorted({"/".join(platform) for platform, _ in images})) or "no image"
        raise RegistryError(
            f"it has images for several platforms ({one_line(names, 200)}), and none for "
            f"{'/'.join(PLATFORM)}: name the image of one platform by its digest"
        )
    digest, _ = _descriptor((own or images)[0][1])
    return digest


def _images(index: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield the images of an index with their platforms, without attestations of a build."""
    listed = index["manifests"]
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, Mapping) or entry.get("mediaType") not in IMAGES:
            continue
        platform = entry.get("platform")
        platform = platform if isinstance(platform, Mapping) else {}
        name = (str(platform.get("os", "any")), str(platform.get("architecture", "any")))
        if name != ("unknown", "unknown"):
            yield name, entry


def _layer(document: Any) -> Layer:
    digest, size = _descriptor(document)
    kind = document.get("mediaType")
    if kind not in (*PLAIN, *COMPRESSED):
        raise RegistryError(
            f"its layer {digest} has the type {one_line(repr(kind), 120)}: push the model as an "
            "OCI image whose layers are tar archives, uncompressed or with gzip"
        )
    annotations = document.get("annotations")
    title = annotations.get(TITLE) if isinstance(annotations, Mapping) else None
    return Layer(
        digest=digest,
        size=size,
        compressed=kind in COMPRESSED,
        title=title if isinstance(title, str) else None,
    )


def _descriptor(document: Any) -> tuple[str, int]:
    digest = document.get("digest") if isinstance(document, Mapping) else None
    size = document.get("size") if isinstance(document, Mapping) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise RegistryError(
            f"its manifest refers to {one_line(repr(digest), 100)}, which is no SHA-256 digest: "
            "push the image again"
        )
    if type(size) is not int or not 0 <= size <= _LARGEST:
        raise RegistryError(
            f"its manifest states the size {one_line(repr(size), 40)} for {digest}: push the "
            "image again"
        )
    return digest, size


def _parsed(document: bytes) -> dict[str, Any]:
    try:
        manifest = untrusted_json.parse(document)
    except ValueError as error:
        raise RegistryError(
            f"its manifest is no JSON ({one_line(error, 100)}): push the image again"
        ) from None
    if not isinstance(manifest, dict):
        raise RegistryError("its manifest is no JSON object: push the image again")
    return manifest
