"""Reads objects back and compares their digests."""

import hashlib
from contextlib import closing
from typing import Any

from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import PAUSES, Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.sources.repository import brief

CHUNK = 1 << 18


def read_back(
    client: Any, bucket: str, key: str, size: int, digest: str, transfer: Transfer
) -> None:
    """Compare an object. Raise TargetRejected if it has another content."""
    import botocore.exceptions
    import urllib3.exceptions

    received, count, tries = hashlib.sha256(), 0, 0
    while True:
        before = count
        try:
            options = {"Range": f"bytes={count}-"} if count else {}
            answer = client.get_object(Bucket=bucket, Key=key, **options)
            with closing(answer["Body"]) as body:
                if count and not answer.get("ContentRange", "").startswith(f"bytes {count}-"):
                    received, count = hashlib.sha256(), 0
                while count <= size and (chunk := body.read(CHUNK)):
                    received.update(chunk)
                    count += len(chunk)
                    transfer.read_back(len(chunk))
            if count >= size:
                break
            raise ConnectionError(f"only {count} of {size} bytes received")
        except (
            botocore.exceptions.HTTPClientError,
            botocore.exceptions.IncompleteReadError,
            urllib3.exceptions.HTTPError,
            ConnectionError,
        ) as error:
            tries = 0 if count > before else tries + 1
            if tries == len(PAUSES):
                raise
            log(f"reading {key} was interrupted at {count} bytes ({brief(error)}): resuming")
            transfer.pause(PAUSES[tries])
    if count != size or received.hexdigest() != digest:
        raise TargetRejected(
            f"s3://{bucket}/{key} has other bytes than were sent: delete this object, and publish "
            "again"
        )
