"""An OCI image of a model: one plain tar layer per file, below ``models/``.

A layer depends on nothing but name and bytes of its file, so equal files are stored once. It is
never written to a disk: header and end are known from name and size. The configuration is that of
an ordinary image, so that container runtimes unpack it; the artifact type is that of ModelPack.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.publishing.content import File
from finetune_trainer.sources.oci import image_manifest

FOLDER = "models"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MANIFEST_TYPE = image_manifest.IMAGES[0]
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = image_manifest.PLAIN[0]
FILE_PATH = "org.cncf.model.filepath"

Check = Callable[[], None]
"""Called after each read; raises Stopped if the process should end."""
Read = Callable[[int, int], Iterator[bytes]]
"""Yields ``count`` bytes from an offset."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Content that a registry stores under its digest (``sha256:HEX``)."""

    digest: str
    size: int
    read: Read


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The layer of one file. ``title`` is the path of the file below ``models/``."""

    title: str
    blob: Blob


def layer_of(file: File, check: Check) -> Layer:
    """Return the layer of a file on the volume, whose digests are computed from one read.

    Raise ResumeRefused if the file is not the one in the manifest.
    """
    head, tail = _frame(file.name, file.size)
    content, layer = hashlib.sha256(), hashlib.sha256(head)
    for chunk in file.read():
        content.update(chunk)
        layer.update(chunk)
        check()
    file.require(content.hexdigest())
    layer.update(tail)
    return _layer(file.name, file.size, layer.hexdigest(), head, tail, file.read)


def layer_of_bytes(name: str, data: bytes) -> Layer:
    """Return the layer of a file in memory."""
    head, tail = _frame(name, len(data))
    digest = hashlib.sha256(head + data + tail).hexdigest()
    return _layer(name, len(data), digest, head, tail, _reader(data))


def blob_of(data: bytes) -> Blob:
    """Return the blob of bytes in memory."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Blob(digest=digest, size=len(data), read=_reader(data))


def config_of(layers: Iterable[Layer], annotations: Mapping[str, str]) -> bytes:
    """Return the configuration of the image. It has no times: equal content has equal bytes."""
    return _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": dict(annotations)},
            "rootfs": {"type": "layers", "diff_ids": [layer.blob.digest for layer in layers]},
        }
    )


def manifest_of(config: Blob, layers: Iterable[Layer], annotations: Mapping[str, str]) -> bytes:
    """Return the manifest of the image."""
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": config.size},
            "layers": [
                {
                    "mediaType": LAYER_TYPE,
                    "digest": layer.blob.digest,
                    "size": layer.blob.size,
                    "annotations": {image_manifest.TITLE: layer.title, FILE_PATH: layer.title},
                }
                for layer in layers
            ],
            "annotations": dict(annotations),
        }
    )


def _layer(name: str, size: int, digest: str, head: bytes, tail: bytes, read: Read) -> Layer:
    def layer(offset: int, count: int) -> Iterator[bytes]:
        # Each part of the layer, cut to the range.
        at = 0
        for length, part in ((len(head), _reader(head)), (size, read), (len(tail), _reader(tail))):
            first, last = max(offset, at), min(offset + count, at + length)
            if first < last:
                yield from part(first - at, last - first)
            at += length

    whole = len(head) + size + len(tail)
    return Layer(title=name, blob=Blob(digest=f"sha256:{digest}", size=whole, read=layer))


def _frame(name: str, size: int) -> tuple[bytes, bytes]:
    """Return the bytes of a tar archive before and after those of its only file."""
    *folders, last = f"{FOLDER}/{name}".split("/")
    head = b"".join(
        _header("/".join(folders[: depth + 1]), kind=tarfile.DIRTYPE, mode=0o755)
        for depth in range(len(folders))
    )
    head += _header("/".join([*folders, last]), kind=tarfile.REGTYPE, mode=0o644, size=size)
    # The file is filled up to whole blocks; two blocks of zeros end the archive.
    return head, bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def _header(name: str, *, kind: bytes, mode: int, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    return info.tobuf(tarfile.GNU_FORMAT)


def _reader(data: bytes) -> Read:
    def read(offset: int, count: int) -> Iterator[bytes]:
        yield data[offset : offset + count]

    return read


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
