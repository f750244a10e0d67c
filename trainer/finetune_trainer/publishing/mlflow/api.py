"""The REST API of an MLflow tracking server, as far as a run and a model version need it."""

import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from finetune_api.contracts.publish_targets import MLflowTarget
from finetune_api.safety import untrusted_json
from finetune_api.safety.credentials import MLFLOW_KEYS, of_target
from finetune_api.safety.redaction import one_line
from finetune_trainer.errors import AccessDenied, InvalidSpec, Transient
from finetune_trainer.publishing.target_errors import TargetRejected
from finetune_trainer.publishing.transfer import PAUSES, Transfer
from finetune_trainer.runtime.log import log
from finetune_trainer.sources import credentials, egress, trust
from finetune_trainer.sources.repository import brief, denial
from finetune_trainer.sources.transfer import is_full, is_retryable

FIELD = "tracking.mlflow"
API = "api/2.0/mlflow"
TIMEOUT = httpx.Timeout(60.0, connect=20.0)
LONGEST_ANSWER = 32 << 20
"""Bytes; an answer with the history of a metric has some megabytes at most."""
SHOWN = 2048
MISSING, EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


class Refused(TargetRejected):
    """The server refuses a request, with an error code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """A tracking server. Use it as a context manager."""

    def __init__(
        self, place: MLflowTarget, name: str, transfer: Transfer, environment: Mapping[str, str]
    ) -> None:
        """``name``: of the target, for its credentials."""
        context = ssl.create_default_context()
        if place.ca is not None:
            trust.load(context, Path(place.ca), field=f"{FIELD}.caConfigMapRef")
        token, user, password = (
            credentials.read(
                of_target(name) + key,
                what=key,
                field=f"{FIELD}.secretRef",
                environment=environment,
            )
            for key in MLFLOW_KEYS
        )
        self._uri = place.uri
        self._transfer = transfer
        self._client = httpx.Client(
            verify=context,
            timeout=TIMEOUT,
            auth=None if token or not user else httpx.BasicAuth(user, password or ""),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return the answer to a GET request."""
        return self._call("GET", path, query, None)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the answer to a POST request."""
        return self._call("POST", path, {}, body)

    def create(
        self, path: str, find: Callable[[], dict[str, Any] | None], **body: Any
    ) -> dict[str, Any]:
        """Return the answer to a POST request that makes another object if it is repeated.

        find: returns what a request has made whose answer was lost, in the form of the answer. It
        is called before each retry.
        """
        return self._call("POST", path, {}, body, find)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any,
        find: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> dict[str, Any]:
        """Send a request, again after an error that may pass, and return the answer."""
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        reason = ""
        for pause in (*PAUSES, None):
            self._transfer.check()
            if reason and (made := find()) is not None:
                return made
            try:
                status, data = self._send(method, path, query, content)
                reason = f"HTTP {status} {data[:SHOWN].decode(errors='replace')}"
            except httpx.TransportError as error:
                self._require_trusted(error)
                status, data, reason = 0, b"", brief(error)
            except httpx.HTTPError as error:
                raise TargetRejected(
                    f"the answer of the tracking server {self._uri} for {path} cannot be read "
                    f"({one_line(brief(error))}): check that {FIELD}.uri is the URL of an MLflow "
                    "server"
                ) from error
            if status and not is_retryable(status):
                return self._answer(status, data, one_line(reason))
            if is_full(status, reason):
                raise self._full(one_line(reason))
            if pause is None:
                break
            log(f"{method} {path} failed ({one_line(reason)}): trying again")
            self._transfer.pause(pause)
        raise Transient(
            f"the tracking server {self._uri} is unreachable or fails ({one_line(reason)}): the "
            "next attempt sends only what it does not have yet. If the error persists, check "
            f"{FIELD}.uri and the network policy"
        )

    def _send(
        self, method: str, path: str, query: Mapping[str, str], content: bytes | None
    ) -> tuple[int, bytes]:
        url = f"{self._uri}/{API}/{path}"
        # The policy has allowed it as a destination. Redirects are not followed.
        egress.announce(url, chosen_by_job=False)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        with self._client.stream(
            method, url, params=dict(query), content=content, headers=headers
        ) as response:
            data = b""
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > LONGEST_ANSWER:
                    raise TargetRejected(
                        f"the tracking server {self._uri} sends more than {LONGEST_ANSWER:,} bytes "
                        f"for {path}: check {FIELD}.uri"
                    )
        if content is not None:
            self._transfer.sent += len(content)
        return response.status_code, data

    def _answer(self, status: int, data: bytes, reason: str) -> dict[str, Any]:
        if status == 200:
            try:
                document = untrusted_json.parse(data)
                if isinstance(document, dict):
                    return document
            except ValueError:
                pass
            raise TargetRejected(
                f"the tracking server {self._uri} returned no JSON object: check {FIELD}.uri"
            )
        if is_full(status, reason):
            raise self._full(reason)
        if status in (401, 403):
            raise AccessDenied(
                f"the tracking server {self._uri} denies access ({reason}): check that the "
                f"credentials in {FIELD}.secretRef are correct and have permission to edit the "
                "experiment and the registered model"
            )
        code = ""
        with suppress(ValueError, AttributeError):
            code = str(untrusted_json.parse(data).get("error_code") or "")
        raise Refused(
            f"the tracking server {self._uri} refuses the run ({reason}): check that {FIELD}.uri "
            "is the URL of an MLflow server, and the names of the experiment and of the registered "
            "model",
            code,
        )

    def _full(self, reason: str) -> TargetRejected:
        return TargetRejected(
            f"the tracking server {self._uri} has no space left, or a quota is used up ({reason}): "
            "free space or raise the quota, and publish again"
        )

    def _require_trusted(self, error: Exception) -> None:
        """Raise the error that no retry changes: a denied connection, an unknown certificate."""
        if (denied := denial(error)) is not None:
            raise denied from None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise InvalidSpec(
                f"the certificate of the tracking server {self._uri} is not trusted "
                f"({brief(error)}): set {FIELD}.caConfigMapRef to a ConfigMap with its certificate "
                "authority, or let an administrator set the chart value caCertificates"
            ) from error
