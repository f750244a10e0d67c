"""Errors of a hub of models, as errors of a target."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from finetune_api.safety.redaction import mask, one_line
from finetune_trainer.errors import AccessDenied, InvalidSpec, TrainerError, Transient
from finetune_trainer.publishing.target_errors import TargetConflict, TargetError, TargetRejected
from finetune_trainer.sources.origin import origin
from finetune_trainer.sources.repository import brief, denial
from finetune_trainer.sources.transfer import is_full, is_retryable

NAME_TAKEN = 409
MOVED = 412


@contextmanager
def named(field: str, repo: str, endpoint: str) -> Iterator[None]:
    """Translate errors within this block. field: of the target. endpoint: URL of the hub."""
    try:
        yield
    except (TrainerError, TargetError):
        raise
    except Exception as error:
        meaning = _meaning(error, field, repo, endpoint)
        if meaning is error:
            raise
        raise meaning from error


def status_of(error: Any) -> int:
    """Return the HTTP status in an error of the client."""
    return int(error.response.status_code)


def _meaning(error: Exception, field: str, repo: str, endpoint: str) -> Exception:
    if (denied := denial(error)) is not None:
        return denied
    # The client reports the failed upload of a file by an error of its own.
    causes = list(_causes(error))
    own = next((cause for cause in causes if isinstance(cause, (TrainerError, TargetError))), None)
    if own is not None:
        return own
    if any(isinstance(cause, ssl.SSLError) or _is_untrusted(cause) for cause in causes):
        return InvalidSpec(
            f"the certificate of the hub {endpoint} is not trusted ({brief(causes[-1])}): set "
            f"{field}.caConfigMapRef to a ConfigMap with its certificate authority, or let an "
            "administrator set the chart value caCertificates"
        )
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause, field, repo, endpoint)
    for cause in causes:
        if isinstance(cause, (HTTPError, OfflineModeIsEnabled, ConnectionError, TimeoutError)):
            return Transient(
                f"the hub {endpoint} is unreachable ({brief(cause)}): the next attempt sends only "
                "the files that it does not hold yet. If the error persists, check the chart value "
                "hub.endpoint and the network policy"
            )
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError)):
        return _rejected(brief(error), repo)
    return error


def _refused(error: Any, field: str, repo: str, endpoint: str) -> Exception:
    status = status_of(error)
    answer = one_line(f"HTTP {status} {mask(error.server_message or '')}".strip())
    if is_full(status, answer):
        return TargetRejected(
            f"the hub has no space left for {repo}, or a quota is used up ({answer}): free space "
            "or raise the quota, and publish again"
        )
    url = str(error.response.url)
    if status in (401, 403) and origin(url) != origin(endpoint):
        return Transient(
            f"{urlsplit(url).netloc}, where the hub {endpoint} stores files, refuses a signed "
            f"address ({answer}): the next attempt gets another address. If the error persists, "
            "check the proxies and the clock of the node"
        )
    if status in (401, 403):
        return AccessDenied(
            f"the hub denies access to {repo} ({answer}): check that the token in "
            f"{field}.tokenSecretRef is valid and has permission to write to {repo}, or to create "
            "it"
        )
    if status == 404:
        return TargetRejected(
            f"the hub does not find {repo} or its owner ({answer}): correct {field}.repo, or check "
            f"that the token in {field}.tokenSecretRef has access"
        )
    if status in (NAME_TAKEN, MOVED):
        return TargetConflict(
            f"another client changed {repo} at the same time ({answer}): publish again"
        )
    if is_retryable(status):
        return Transient(
            f"the hub fails for {repo} ({answer}): the next attempt sends only the files that it "
            "does not hold yet"
        )
    return _rejected(answer, repo)


def _rejected(answer: str, repo: str) -> TargetRejected:
    if is_full(400, answer):
        return TargetRejected(
            f"the hub has no space left for {repo}, or a quota is used up ({one_line(answer)}): "
            "free space or raise the quota, and publish again"
        )
    return TargetRejected(
        f"the hub refuses the model for {repo}, or gives no valid answer ({one_line(answer)}): "
        "check that the chart value hub.endpoint names a hub that accepts uploads with Git LFS"
    )


def _is_untrusted(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
