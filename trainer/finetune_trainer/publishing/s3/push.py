"""Publishes a model in an S3 bucket, below a prefix that is named by the digest of its manifest.

Objects are never replaced or deleted. ``manifest.json`` is written last, and only if it does not
exist, so a prefix with a manifest is complete. Large files are sent in parts; the store keeps the
parts of an unfinished upload, so another attempt sends none of them again.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from finetune_api.contracts.provenance.attestation import MANIFEST
from finetune_api.contracts.publish_targets import PublishTargetRequest, S3Target
from finetune_trainer.publishing.content import Content, File
from finetune_trainer.publishing.outcome import Outcome
from finetune_trainer.publishing.s3 import errors as s3_errors
from finetune_trainer.publishing.s3 import objects
from finetune_trainer.publishing.s3.client import connected
from finetune_trainer.publishing.s3.objects import DIGEST
from finetune_trainer.publishing.s3.read_back import read_back
from finetune_trainer.publishing.target_errors import TargetConflict
from finetune_trainer.publishing.transfer import Transfer

PART = 16 << 20
"""Bytes of one request, and so the memory that an upload needs."""
MOST_PARTS = 10_000
LONGEST_METADATA = 1900
"""Bytes of annotations; S3 allows 2 KB of metadata."""


def publish(
    target: PublishTargetRequest,
    content: Content,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Publish a content, and read it back. ``outcome`` gets the reference.

    Raise TargetError or TrainerError.
    """
    assert target.s3 is not None
    with s3_errors.named(target.name, target.s3.uri):
        _publish(target, target.s3, content, outcome, transfer, environment)


def _publish(
    target: PublishTargetRequest,
    s3: S3Target,
    content: Content,
    outcome: Outcome,
    transfer: Transfer,
    environment: Mapping[str, str],
) -> None:
    bucket, _, prefix = s3.uri.removeprefix("s3://").partition("/")
    folder = "/".join(filter(None, (prefix, f"sha256-{content.digest}")))
    with connected(target.name, s3, environment) as client:
        push = _Push(client, bucket, folder, transfer)
        for file in content.files:
            push.ensure(file)
        push.finish(content, target.annotations)
        outcome.completed(f"s3://{bucket}/{folder}/", f"sha256:{content.digest}")
        for name, size, digest in (
            *((file.name, file.size, file.sha256) for file in content.files),
            (MANIFEST, len(content.manifest), content.digest),
        ):
            read_back(client, bucket, f"{folder}/{name}", size, digest, transfer)


class _Push:
    """The publication of one content below one prefix."""

    def __init__(self, client: Any, bucket: str, folder: str, transfer: Transfer) -> None:
        self._client = client
        self._bucket = bucket
        self._folder = folder
        self._transfer = transfer

    def ensure(self, file: File) -> None:
        """Upload a file unless the store has it. Raise TargetConflict if it has another one."""
        name = self._name(file.name)
        present = objects.head(self._client, name)
        if present is None:
            metadata = {DIGEST: file.sha256}
            (self._put if file.size <= PART else self._upload)(file, name, metadata)
        elif not objects.is_same(present, file.size, file.sha256):
            raise self._conflict(name["Key"])
        else:
            self._transfer.stored(file.size)
        self._transfer.check()

    def finish(self, content: Content, annotations: Mapping[str, str]) -> None:
        """Write the manifest unless it exists. Raise TargetConflict if it is another one."""
        name = self._name(MANIFEST)
        present = objects.head(self._client, name)
        if present is None:
            metadata = _metadata(annotations) | {DIGEST: content.digest}
            self._put_bytes(content.manifest, name, metadata)
        elif present["ContentLength"] != len(content.manifest):
            raise self._conflict(name["Key"])
        self._transfer.stored(len(content.manifest))

    def _name(self, name: str) -> dict[str, str]:
        return objects.named(self._bucket, f"{self._folder}/{name}")

    def _put(self, file: File, name: dict[str, str], metadata: dict[str, str]) -> None:
        digest = hashlib.sha256()
        data = _bytes_of(file.read(), digest)
        file.require(digest.hexdigest())
        self._put_bytes(data, name, metadata)
        self._transfer.stored(len(data))

    def _put_bytes(
        self, data: bytes | bytearray, name: dict[str, str], metadata: dict[str, str]
    ) -> None:
        objects.put(self._client, name, data, metadata)
        self._transfer.sent += len(data)

    def _upload(self, file: File, name: dict[str, str], metadata: dict[str, str]) -> None:
        """Send a file in parts, those that an earlier attempt has not sent."""
        upload = self._unfinished(name)
        present = {} if upload is None else self._parts(name, upload)
        if upload is None:
            created = self._client.create_multipart_upload(
                **name, Metadata=metadata, ChecksumAlgorithm="CRC32"
            )
            upload = created["UploadId"]
        done, whole = [], hashlib.sha256()
        part = part_size(file.size)
        for number, offset in enumerate(range(0, file.size, part), start=1):
            data = _bytes_of(file.read(offset, min(part, file.size - offset)), whole)
            checksum = objects.crc32(data)
            stored = present.get(number)
            if stored is None or not _is_same(stored, data, checksum):
                stored = self._client.upload_part(
                    **name, UploadId=upload, PartNumber=number, Body=data, ChecksumCRC32=checksum
                )
                self._transfer.sent += len(data)
            own = {"ChecksumCRC32": checksum} if stored.get("ChecksumCRC32") else {}
            done.append({"PartNumber": number, "ETag": stored["ETag"], **own})
            self._transfer.stored(len(data))
            # Before the next part is read.
            del data
            self._transfer.check()
        file.require(whole.hexdigest())
        with objects.written_once(self._client, name, file.size, file.sha256):
            self._client.complete_multipart_upload(
                **name, UploadId=upload, MultipartUpload={"Parts": done}, IfNoneMatch="*"
            )

    def _unfinished(self, name: Mapping[str, str]) -> str | None:
        """Return the newest unfinished upload of an object."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=name["Key"]
        )
        unfinished = [
            upload
            for page in pages
            for upload in page.get("Uploads", ())
            if upload["Key"] == name["Key"]
        ]
        newest = max(unfinished, key=lambda upload: upload["Initiated"], default=None)
        return None if newest is None else str(newest["UploadId"])

    def _parts(self, name: Mapping[str, str], upload: str) -> dict[int, Any]:
        """Return the finished parts of an upload by number."""
        pages = self._client.get_paginator("list_parts").paginate(**name, UploadId=upload)
        return {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}

    def _conflict(self, key: str) -> TargetConflict:
        return TargetConflict(
            f"s3://{self._bucket}/{key} exists with another content, and objects are never "
            "replaced: delete this object, and publish again"
        )


def part_size(size: int) -> int:
    """Return the size of the parts of a file, of which there may be ``MOST_PARTS``."""
    mebibytes = -(-size // MOST_PARTS >> 20)
    return max(PART, mebibytes << 20)


def _bytes_of(chunks: Iterator[bytes], digest: Any) -> bytearray:
    """Return the bytes of chunks, each of which the digest uses while it is in the cache."""
    data = bytearray()
    for chunk in chunks:
        data += chunk
        digest.update(chunk)
    return data


def _is_same(part: Mapping[str, Any], data: bytearray, checksum: str) -> bool:
    """Report whether a part in the store has these bytes. Reading the object back proves it."""
    if part["Size"] != len(data):
        return False
    if listed := part.get("ChecksumCRC32"):
        return bool(listed == checksum)
    # Stores that do not list checksums. A part that is encrypted has another ETag.
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return bool(part["ETag"].strip('"') == etag)


def _metadata(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return annotations as metadata, which are headers: percent-encoded, without those too long.

    The slash in a key is not allowed in the name of a header.
    """
    metadata, left = {}, LONGEST_METADATA
    for name, value in sorted(annotations.items()):
        key, text = name.replace("/", "."), quote(value, safe=" /:@,;=+()")
        if (size := len(key) + len(text)) <= left:
            metadata[key], left = text, left - size
    return metadata
