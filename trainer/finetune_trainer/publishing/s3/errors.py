"""Errors of an S3 service, as errors of a target."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import AccessDenied, InvalidSpec, Transient
from finetune_trainer.publishing.target_errors import TargetConflict, TargetRejected
from finetune_trainer.sources.repository import brief, denial
from finetune_trainer.sources.transfer import is_full, is_retryable

DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
PASSING = ("ConditionalRequestConflict", "SlowDown", "RequestTimeout", "NoSuchUpload")
"""Codes of errors that another attempt may not meet; the status of some says otherwise."""


def status_of(error: Any) -> int:
    """Return the HTTP status in an error of botocore."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def code_of(error: Any) -> str:
    """Return the code of an error of botocore, as S3 names it."""
    return str(error.response.get("Error", {}).get("Code") or "")


@contextmanager
def named(name: str, uri: str) -> Iterator[None]:
    """Translate errors within this block. name, uri: of the target."""
    import botocore.exceptions
    import urllib3.exceptions

    field = f"publish[{name}].s3"
    try:
        yield
    except botocore.exceptions.ClientError as error:
        raise _refused(error, field, uri) from error
    except (
        botocore.exceptions.SSLError,
        urllib3.exceptions.SSLError,
        ssl.SSLError,
    ) as error:
        raise InvalidSpec(
            f"the certificate of the store of {uri} is not trusted ({brief(error)}): set "
            f"{field}.caConfigMapRef to a ConfigMap with its certificate authority, or let an "
            "administrator set the chart value caCertificates"
        ) from error
    except (
        botocore.exceptions.BotoCoreError,
        urllib3.exceptions.HTTPError,
        TimeoutError,
        ConnectionError,
    ) as error:
        if (denied := denial(error)) is not None:
            raise denied from None
        raise Transient(
            f"the store of {uri} is unreachable ({brief(error)}): the next attempt sends only "
            "what it does not hold yet. If the error persists, check the endpoint and the network "
            "policy"
        ) from error


def _refused(error: Any, field: str, uri: str) -> Exception:
    status, code = status_of(error), code_of(error)
    answer = one_line(f"HTTP {status} {error}")
    if is_full(status, f"{code} {error}"):
        return TargetRejected(
            f"the store has no space left for {uri}, or a quota is used up ({answer}): free space "
            "or raise the quota, and publish again"
        )
    if status in (401, 403) or code in DENIED:
        return AccessDenied(
            f"the store denies access to {uri} ({answer}): check that the key in "
            f"{field}.secretRef, or the cloud role of the ServiceAccount in "
            "access.serviceAccountName, has the permissions s3:PutObject, s3:GetObject, "
            "s3:ListBucket, s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts"
        )
    if status == 412:
        return TargetConflict(
            f"another client wrote an object below {uri} at the same time ({answer}): publish again"
        )
    if (is_retryable(status) and status != 501) or code in PASSING:
        return Transient(
            f"the store of {uri} fails ({answer}): the next attempt sends only what it does not "
            "hold yet"
        )
    return TargetRejected(
        f"the store refuses {uri} ({answer}): check that the bucket exists in this region, and "
        "that the store supports conditional writes (If-None-Match)"
    )
