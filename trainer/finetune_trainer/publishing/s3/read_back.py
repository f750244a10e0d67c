"""Reads objects back and compares their digests."""

import hashlib
from typing import Any

from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import PAUSES, Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.sources.repository import brief

CHUNK = 1 << 20


async def read_back(
    client: Any, bucket: str, key: str, size: int, digest: str, transfer: Transfer
) -> None:
    """Compare an object. Raise TargetRejected if it has another content."""
    import aiohttp
    import botocore.exceptions

    found, count, tries = hashlib.sha256(), 0, 0
    while True:
        before = count
        try:
            options = {"Range": f"bytes={count}-"} if count else {}
            answer = await client.get_object(Bucket=bucket, Key=key, **options)
            if count and not answer.get("ContentRange", "").startswith(f"bytes {count}-"):
                found, count = hashlib.sha256(), 0
            async with answer["Body"] as body:
                while count <= size and (chunk := await body.read(CHUNK)):
                    found.update(chunk)
                    count += len(chunk)
                    transfer.read_back(len(chunk))
            if count >= size:
                break
            raise ConnectionError(f"only {count} of {size} bytes received")
        except (
            aiohttp.ClientError,
            botocore.exceptions.HTTPClientError,
            TimeoutError,
            ConnectionError,
        ) as error:
            tries = 0 if count > before else tries + 1
            if tries == len(PAUSES):
                raise
            log(f"reading {key} was interrupted at {count} bytes ({brief(error)}): resuming")
            transfer.pause(PAUSES[tries])
    if count != size or found.hexdigest() != digest:
        raise TargetRejected(
            f"s3://{bucket}/{key} has other bytes than were sent: delete this object, and publish "
            "again"
        )
