"""Images as other tools build them, for tests of the sources."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

from tests.fakes.registry import Registry, digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
PLAIN = "application/vnd.oci.image.layer.v1.tar"
GZIP = f"{PLAIN}+gzip"

Entry = tarfile.TarInfo | tuple[str, bytes]


def archive(entries: Iterable[Entry], *, format: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar archive of files, and of entries without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            name, data = entry
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def files(found: Mapping[str, bytes]) -> bytes:
    """Return an archive of files below ``models/``, with the folder itself."""
    folder = entry("models", tarfile.DIRTYPE)
    return archive([folder, *((f"models/{name}", data) for name, data in found.items())])


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """Return an entry without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def push(registry: Registry, *layers: bytes, tag: str = "latest", **changes: Any) -> str:
    """Store an image; return its digest. Layers that begin like gzip are compressed ones."""
    document = manifest(registry, *layers) | changes
    return registry.tag(tag, json.dumps(document).encode())


def manifest(registry: Registry, *layers: bytes) -> dict[str, Any]:
    """Store the blobs of an image; return its manifest."""
    config = _blob(registry, b"{}", "application/vnd.oci.image.config.v1+json")
    found = [_blob(registry, each, GZIP if each[:2] == b"\x1f\x8b" else PLAIN) for each in layers]
    return {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": found}


def index(registry: Registry, *images: tuple[str, dict[str, str] | None]) -> str:
    """Store an index of images with their platforms under the tag ``latest``."""
    listed = [
        {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": len(registry.manifests[digest]),
            **({} if platform is None else {"platform": platform}),
        }
        for digest, platform in images
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
    return registry.tag("latest", json.dumps(document).encode())


def compressed(data: bytes) -> bytes:
    """Return data as gzip with two members, as tools that compress in parallel write it."""
    half = len(data) // 2
    return gzip.compress(data[:half], mtime=0) + gzip.compress(data[half:], mtime=0)


def _blob(registry: Registry, data: bytes, kind: str) -> dict[str, Any]:
    digest = digest_of(data)
    registry.blobs[digest] = data
    return {"mediaType": kind, "digest": digest, "size": len(data)}
