"""Requests: credentials, timeouts, the write fence, and the mapping of responses to errors."""

import asyncio
import ssl
import time
from asyncio.sslproto import SSLProtocol
from typing import Any

import pytest
from aiohttp import web
from tests.unit.operator.conftest import Server, connected

from finetune_operator.kube.connection import LINE_BYTES
from finetune_operator.kube.errors import (
    Conflict,
    Gone,
    NotFound,
    NotLeading,
    OperatorError,
    Terminal,
    Transient,
)
from finetune_operator.kube.transport import Transport

PATH = "/api/v1/namespaces/a/services"


async def test_a_rejected_token_is_loaded_again(transport: Transport, server: Server) -> None:
    server.responds(401, {"message": "Unauthorized"})
    with pytest.raises(Transient):
        await transport.call("GET", PATH)
    server.responds(200, {})
    await transport.call("GET", PATH)
    sent = [request.headers["Authorization"] for request, _ in server.requests]
    assert sent == ["bearer secret", "bearer renewed"]


@pytest.mark.parametrize(
    ("status", "message", "expected", "reason"),
    [
        (400, "bad", Terminal, "FailedCreate"),
        (401, "expired", Transient, "ApiUnavailable"),
        (403, "forbidden", Terminal, "FailedCreate"),
        (403, "pods x is forbidden: exceeded quota: gpu", Terminal, "QuotaExceeded"),
        (404, "gone", NotFound, "NotFound"),
        (409, "already exists", Conflict, "Conflict"),
        (410, "expired list", Gone, "ApiUnavailable"),
        (422, "spec: invalid", Terminal, "FailedCreate"),
        (429, "slow down", Transient, "ApiUnavailable"),
        (500, "oops", Transient, "ApiUnavailable"),
        (503, "starting", Transient, "ApiUnavailable"),
    ],
)
async def test_a_status_code_is_mapped_to_an_error(
    transport: Transport,
    server: Server,
    status: int,
    message: str,
    expected: type[OperatorError],
    reason: str,
) -> None:
    server.responds(status, {"kind": "Status", "message": message})
    with pytest.raises(expected) as caught:
        await transport.call("POST", PATH, body={})
    assert type(caught.value) is expected
    assert caught.value.reason == reason
    assert message in str(caught.value)


async def test_an_exceeded_quota_comes_with_what_to_change(
    transport: Transport, server: Server
) -> None:
    """The quota of a PersistentVolumeClaim limits the size that the spec requests."""
    detail = (
        'persistentvolumeclaims "a" is forbidden: exceeded quota: disks, requested: '
        "requests.storage=50Gi, used: requests.storage=10Gi, limited: requests.storage=40Gi"
    )
    server.responds(403, {"kind": "Status", "message": detail})
    with pytest.raises(Terminal) as caught:
        await transport.call("POST", "/api/v1/namespaces/a/persistentvolumeclaims", body={})
    assert str(caught.value) == (
        f"{detail}. Raise the ResourceQuota of the namespace, or lower "
        "spec.resources or spec.storage.size."
    )


async def test_retry_after_is_part_of_the_error(transport: Transport, server: Server) -> None:
    server.responds(429, {"message": "slow down"}, **{"Retry-After": "7"})
    with pytest.raises(Transient) as caught:
        await transport.call("POST", PATH, body={})
    assert caught.value.retry_after == 7


async def test_a_response_that_is_not_json_is_mapped_to_an_error(
    transport: Transport, server: Server
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    server.handler = handler
    with pytest.raises(Transient, match="bad gateway"):
        await transport.call("GET", PATH)


async def test_a_request_without_a_response_times_out(server: Server) -> None:
    async with connected(server, seconds=0.2) as transport:
        with server.silent(), pytest.raises(Transient):
            await asyncio.wait_for(transport.call("GET", PATH), 60)


async def test_without_a_lease_only_reads_and_unfenced_writes_are_sent(
    transport: Transport, server: Server
) -> None:
    transport.fence = lambda: 0.0
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(NotLeading, match=method):
            await transport.call(method, PATH, body={})
    assert server.requests == []
    await transport.call("GET", PATH)
    await transport.call("PUT", PATH, body={}, fenced=False)
    assert [request.method for request, _ in server.requests] == ["GET", "PUT"]


async def test_the_timeout_of_a_write_does_not_exceed_the_lease(
    transport: Transport, server: Server
) -> None:
    transport.fence = lambda: 0.1
    began = time.monotonic()
    with server.silent(), pytest.raises(Transient):
        await transport.call("POST", PATH, body={})
    assert time.monotonic() - began < 30, "shorter than the timeout of a read"


async def test_a_watch_fails_at_an_event_that_is_too_long(
    transport: Transport, server: Server
) -> None:
    """JSON can be five times as long as the object in etcd."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type": "ADDED", "object": {}}\n' + b" " * (2 * LINE_BYTES + 1))
        await response.write(b"\n")
        return response

    server.handler = handler
    events = transport.stream("/api/v1/pods", {"watch": "1"}, seconds=10)
    assert await anext(events) == {"type": "ADDED", "object": {}}
    with pytest.raises(Transient, match="Got more than"):
        await anext(events)


async def test_the_buffer_of_a_tls_connection_is_small() -> None:
    """The size is an attribute of a class that Python does not document."""
    loop = asyncio.get_running_loop()
    protocol: Any = SSLProtocol(
        loop, asyncio.Protocol(), ssl.create_default_context(), loop.create_future()
    )
    protocol._app_transport.abort()
    assert len(protocol._ssl_buffer) == 64 << 10
