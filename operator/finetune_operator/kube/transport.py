"""One request to the API server, and what its answer means.

The official client (``kubernetes.aio``) sends it, with what ``login`` reads. Its generated models
are not used: they refuse fields that they do not know and cost thirty times as much as the JSON.

Every call ends within ``TIMEOUT_SECONDS`` and raises nothing but what ``errors`` names. The client
never repeats a call; its user knows whether that is right.

``fence`` tells for how many seconds a write may be under way (``lease``): none is sent where that
is 0, and none is waited for longer.
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
        renew: Callable[[Configuration], Awaitable[None]] = auth.read,
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
        """Send a request and return the object of its answer. Raises OperatorError.

        fenced: whether a write is held to the fence; seconds: of patience, where fewer than usual.
        """
        code, started = "<error>", time.monotonic()
        seconds = self._seconds if seconds is None else seconds
        if fenced and method != "GET":
            seconds = min(seconds, self.fence())
            if seconds <= 0:
                raise NotLeading(f"{method} {path}: not sent, this replica does not lead any more")
        try:
            # Not by the client's own timeout: it rounds up to whole seconds.
            async with asyncio.timeout(seconds):
                limit = aiohttp.ClientTimeout(total=None, connect=self._seconds / 2)
                answer = await self._send(method, path, query, body, content_type, accept, limit)
                text = await answer.read()
                code = str(answer.status)
                if answer.status == 401:
                    await self._renew(self._api.configuration)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Transient(f"{method} {path}: {cause}") from error
        finally:
            metrics.REQUESTS.labels(code, method, self._host).inc()
            metrics.REQUEST_SECONDS.labels(method, self._host).observe(time.monotonic() - started)
        decoded = _decoded(text)
        if answer.status >= 300:
            after = answer.headers.get("Retry-After", "")
            raise error_of(method, path, answer.status, decoded, after)
        return decoded

    async def stream(
        self, path: str, query: dict[str, str], *, seconds: float
    ) -> AsyncGenerator[Object, None]:
        """Yield the lines of a watch until it ends, within ``seconds``. Raises OperatorError."""
        limit = aiohttp.ClientTimeout(total=seconds, connect=self._seconds)
        try:
            answer = await self._send("GET", path, query, None, JSON, JSON, limit)
            if answer.status >= 300:
                raise error_of("WATCH", path, answer.status, _decoded(await answer.read()))
            async for line in answer.response.content:
                yield _decoded(line)
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
    """Return what an HTTP status that is not a success means.

    answer: the Status object of the API server, or anything else as ``message``.
    """
    said = str(answer.get("message") or "no explanation")
    message = f"{method} {path}: {status} {said}"
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status == 403 and "exceeded quota" in said:
        return Terminal(said, reason=Reason.QUOTA_EXCEEDED)
    # 401: the token was exchanged a moment ago, or is being so. 410: a list took too long.
    if status in (401, 408, 410, 429) or status >= 500 or 300 <= status < 400:
        seconds = float(retry_after) if retry_after.isdigit() else None
        return Transient(message, retry_after=seconds)
    return Terminal(said)


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")[:1000]}
    return decoded if isinstance(decoded, dict) else {"message": str(decoded)[:1000]}
