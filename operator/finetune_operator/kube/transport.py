"""Requests to the API server, and the mapping of responses to errors.

Every call ends within ``TIMEOUT_SECONDS`` and raises only errors of ``errors``. Calls are never
repeated here; the caller knows whether a retry is safe.

``fence`` returns for how many more seconds this replica may write (``leader_election``): with 0 a
write is not sent, and no write has a longer timeout.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from kubernetes.aio.client.configuration import Configuration

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube import auth
from finetune_operator.kube.connection import JSON, Connection, Decode, decoded, encoded
from finetune_operator.kube.errors import (
    Conflict,
    Gone,
    NotFound,
    NotLeading,
    OperatorError,
    Terminal,
    Transient,
)
from finetune_operator.kube.page_size import PageSize
from finetune_operator.kube.server_clock import ServerClock
from finetune_operator.telemetry import metrics
from finetune_operator.types import Object

TIMEOUT_SECONDS = 10.0


class Transport:
    """A connection to one API server."""

    def __init__(
        self,
        connection: Connection,
        *,
        timeout: float = TIMEOUT_SECONDS,
        renew: Callable[[Configuration], Awaitable[None]] = auth.load,
    ) -> None:
        self._connection = connection
        self._renew = renew
        self.host: str = urlsplit(connection.configuration.host).netloc
        self._seconds = timeout
        # The whole request has a timeout of its own: that of the session rounds up to seconds.
        self._limit = aiohttp.ClientTimeout(total=None, connect=timeout / 2)
        self.fence: Callable[[], float] = lambda: math.inf
        self.clock = ServerClock()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

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
        size: PageSize | None = None,
        decode: Decode = decoded,
    ) -> dict[str, Any]:
        """Send a request and return the object in its response. Raises OperatorError.

        fenced: whether the fence applies to this write. seconds: timeout, if shorter than usual.
        size: of the page that the query requests; raises PageTooLarge if the response is too long.
        decode: of a success.
        """
        code, started = "<error>", time.monotonic()
        seconds = self._seconds if seconds is None else seconds
        if fenced and method != "GET":
            seconds = min(seconds, self.fence())
            if seconds <= 0:
                raise NotLeading(
                    f"{method} {path} was not sent: this replica is no longer the leader"
                )
        try:
            async with (
                asyncio.timeout(seconds),
                await self._connection.request(
                    method,
                    path,
                    query=query,
                    body=None if body is None else encoded(body),
                    content_type=content_type,
                    accept=accept,
                    limit=self._limit,
                ) as response,
            ):
                text = await _text(response, size)
                code = str(response.status)
                self.clock.observe(response.headers.get("Date", ""))
                if response.status == 401:
                    await self._renew(self._connection.configuration)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Transient(f"{method} {path}: {cause}") from error
        finally:
            metrics.REQUESTS.labels(code, method, self.host).inc()
            metrics.REQUEST_SECONDS.labels(method, self.host).observe(time.monotonic() - started)
        if size is not None and response.status == 200:
            size.check(len(text))
        if response.status >= 300:
            after = response.headers.get("Retry-After", "")
            raise error_of(method, path, response.status, decoded(text), after)
        return decode(text)

    async def stream(
        self,
        path: str,
        query: dict[str, str],
        *,
        seconds: float,
        silence: float | None = None,
        accept: str = JSON,
        decode: Decode = decoded,
    ) -> AsyncGenerator[Object, None]:
        """Yield the lines of a watch until it ends, within ``seconds``. Raises OperatorError.

        silence: seconds without data after which the watch fails, None for no limit. decode: of a
        line.
        """
        limit = aiohttp.ClientTimeout(total=seconds, connect=self._seconds, sock_read=silence)
        try:
            async with await self._connection.request(
                "GET", path, query=query, accept=accept, limit=limit
            ) as response:
                if response.status >= 300:
                    answer = decoded(await response.read())
                    if response.status == 401:
                        await self._renew(self._connection.configuration)
                    raise error_of("WATCH", path, response.status, answer)
                async for line in response.content:
                    yield decode(line)
        except (TimeoutError, aiohttp.ClientError, HttpProcessingError, OSError) as error:
            # HttpProcessingError: a line of more than 2 * LINE_BYTES.
            raise Transient(f"WATCH {path}: {str(error) or type(error).__name__}") from error


async def _text(response: aiohttp.ClientResponse, size: PageSize | None) -> bytes:
    """Return the text of a response; of a page that must be requested again, a part of it."""
    if size is None or size.most_bytes is None or response.status != 200:
        return await response.read()
    try:
        return await response.content.readexactly(size.most_bytes)
    except asyncio.IncompleteReadError as complete:
        return complete.partial


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
    if status == 410:
        return Gone(message)
    if status == 409:
        return Conflict(message)
    if status == 403 and "exceeded quota" in detail:
        return Terminal(
            f"{detail.rstrip('.')}. Raise the ResourceQuota of the namespace, or lower "
            "spec.resources or spec.storage.size.",
            reason=Reason.QUOTA_EXCEEDED,
        )
    # 401: the token is being replaced.
    if status in (401, 408, 429) or status >= 500 or 300 <= status < 400:
        seconds = float(retry_after) if retry_after.isdigit() else None
        return Transient(message, retry_after=seconds)
    return Terminal(detail)
