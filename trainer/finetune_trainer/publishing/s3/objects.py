"""Objects of a bucket that are written once, and never replaced."""

import base64
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from finetune_trainer.publishing.s3 import errors as s3_errors

DIGEST = "sha256"
"""Key of the metadata of an object with the SHA-256 of all its bytes, in hex."""


def named(bucket: str, key: str) -> dict[str, str]:
    """Return the arguments of a request that name an object."""
    return {"Bucket": bucket, "Key": key}


def head(client: Any, name: Mapping[str, str]) -> Any:
    """Return the properties of an object; None if it does not exist."""
    import botocore.exceptions

    try:
        return client.head_object(**name)
    except botocore.exceptions.ClientError as error:
        if s3_errors.status_of(error) != 404:
            raise
        return None


def is_same(properties: Any, size: int, digest: str) -> bool:
    """Report whether an object has a size and a digest. Reading it back proves its content."""
    stored = (properties["ContentLength"], properties["Metadata"].get(DIGEST))
    return stored == (size, digest)


def put(
    client: Any, name: Mapping[str, str], data: bytes | bytearray, metadata: Mapping[str, str]
) -> None:
    """Write an object that does not exist. metadata: with ``DIGEST``."""
    with written_once(client, name, len(data), metadata[DIGEST]):
        client.put_object(
            **name,
            Body=data,
            ChecksumCRC32=crc32(data),
            Metadata=metadata,
            IfNoneMatch="*",
        )


@contextmanager
def written_once(client: Any, name: Mapping[str, str], size: int, digest: str) -> Iterator[None]:
    """Ignore that the store refuses to write an object within this block if it has just done so.

    If an answer is lost, the client sends its request again, and the object exists.
    """
    import botocore.exceptions

    try:
        yield
    except botocore.exceptions.ClientError as error:
        repeated = s3_errors.status_of(error) == 412 or s3_errors.code_of(error) == "NoSuchUpload"
        present = head(client, name) if repeated else None
        if present is None or not is_same(present, size, digest):
            raise


def crc32(data: bytes | bytearray) -> str:
    """Return the checksum that the store compares."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
