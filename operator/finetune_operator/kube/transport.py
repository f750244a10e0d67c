"""Requests to the API server, and the mapping of responses to errors.

The official client (``kubernetes.aio``) sends them, with the credentials of ``auth``. Its generated
models are not used: they reject unknown fields and cost thirty times as much as plain JSON.

Every call ends within ``TIMEOUT_SECONDS`` and raises only errors of ``errors``. Calls are never
repeated here; the caller knows whether a retry is safe.

``fence`` returns for how many more seconds this replica may write (``leader_election``): with 0 a
write is not sent, and no write has a longer timeout.
"""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube import auth
from finetune_operator.kube.errors import (
    Conflict,
    NotFound,
    NotLeading,
    OperatorError,
    Terminal,
    Transient,
)
from finetune_operator.telemetry import metrics
from finetune_operator.types import Object

TIMEOUT_SECONDS = 10.0
JSON = "application/json"


class Transport:
    """A connection to one API server."""

    def __init__(
        self,
        api: ApiClient,
        *,
        timeout: float = TIMEOUT_SECONDS,
        renew: Callable[[Configuration], Awaitable[None]] = auth.load,
    ) -> None:
        self._api = api
        self._renew = renew
        self._host = urlsplit(api.configuration.host).netloc
        self._seconds = timeout
        self.fence: Callable[[], float] = lambda: math.inf

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        fenced: bool = True,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the object in its response. Raises OperatorError.

        fenced: whether the fence applies to this write. seconds: timeout, if shorter than usual.
        """
        code, started = "<error>", time.monotonic()
        seconds = self._seconds if seconds is None else seconds
        if fenced and method != "GET":
            seconds = min(seconds, self.fence())
            if seconds <= 0:
                raise NotLeading(f"{method} {path}: not sent, this replica is no longer the leader")
        try:
            # The timeout of the client rounds up to whole seconds.
            async with asyncio.timeout(seconds):
                limit = aiohttp.ClientTimeout(total=None, connect=self._seconds / 2)
                response = await self._send(method, path, query, body, content_type, accept, limit)
                text = await response.read()
                code = str(response.status)
                if response.status == 401:
                    await self._renew(self._api.configuration)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Transient(f"{method} {path}: {cause}") from error
        finally:
            metrics.REQUESTS.labels(code, method, self._host).inc()
            metrics.REQUEST_SECONDS.labels(method, self._host).observe(time.monotonic() - started)
        answer = _decode(text)
        if response.status >= 300:
            after = response.headers.get("Retry-After", "")
            raise error_of(method, path, response.status, answer, after)
        return answer

    async def stream(
        self, path: str, query: dict[str, str], *, seconds: float
    ) -> AsyncGenerator[Object, None]:
        """Yield the lines of a watch until it ends, within ``seconds``. Raises OperatorError."""
        limit = aiohttp.ClientTimeout(total=seconds, connect=self._seconds)
        try:
            response = await self._send("GET", path, query, None, JSON, JSON, limit)
            if response.status >= 300:
                raise error_of("WATCH", path, response.status, _decode(await response.read()))
            async for line in response.response.content:
                yield _decode(line)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Transient(f"WATCH {path}: {str(error) or type(error).__name__}") from error

    async def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: Object | None,
        content_type: str,
        accept: str,
        limit: aiohttp.ClientTimeout,
    ) -> Any:
        request = await self._api.param_serialize(
            method,
            path,
            query_params=None,
            header_params={"Accept": accept, "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        verb, url, headers, content, _ = request
        url += f"?{urlencode(query)}" if query else ""
        return await self._api.call_api(verb, url, headers, content, _request_timeout=limit)


def error_of(
    method: str, path: str, status: int, answer: Object, retry_after: str = ""
) -> OperatorError:
    """Return the error for an HTTP status that is not a success.

    answer: the Status object of the API server, or any other text as ``message``. retry_after: the
    header of that name.
    """
    detail = str(answer.get("message") or "no message")
    message = f"{method} {path}: {status} {detail}"
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status == 403 and "exceeded quota" in detail:
        return Terminal(detail, reason=Reason.QUOTA_EXCEEDED)
    # 401: the token is being replaced. 410: a list took too long.
    if status in (401, 408, 410, 429) or status >= 500 or 300 <= status < 400:
        seconds = float(retry_after) if retry_after.isdigit() else None
        return Transient(message, retry_after=seconds)
    return Terminal(detail)


def _decode(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")[:1000]}
    return value if isinstance(value, dict) else {"message": str(value)[:1000]}
