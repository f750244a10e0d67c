"""One request: how it is sent, how long it may take, and what is made of its answer."""

import asyncio
import time

import pytest
from aiohttp import web
from tests.unit.operator.conftest import Server

from finetune_operator.kube.errors import (
    Conflict,
    NotFound,
    NotLeading,
    OperatorError,
    Terminal,
    Transient,
)
from finetune_operator.kube.transport import Transport

PATH = "/api/v1/namespaces/a/services"


async def test_a_token_that_is_refused_is_read_anew(transport: Transport, server: Server) -> None:
    server.says(401, {"message": "Unauthorized"})
    with pytest.raises(Transient):
        await transport.call("GET", PATH)
    server.says(200, {})
    await transport.call("GET", PATH)
    sent = [request.headers["Authorization"] for request, _ in server.requests]
    assert sent == ["bearer secret", "bearer renewed"]


@pytest.mark.parametrize(
    ("status", "message", "expected", "reason"),
    [
        (400, "bad", Terminal, "FailedCreate"),
        (401, "expired", Transient, "ApiUnavailable"),
        (403, "may not", Terminal, "FailedCreate"),
        (403, "pods x is forbidden: exceeded quota: gpu", Terminal, "QuotaExceeded"),
        (404, "gone", NotFound, "NotFound"),
        (409, "already exists", Conflict, "Conflict"),
        (410, "expired list", Transient, "ApiUnavailable"),
        (422, "spec: invalid", Terminal, "FailedCreate"),
        (429, "slow down", Transient, "ApiUnavailable"),
        (500, "oops", Transient, "ApiUnavailable"),
        (503, "starting", Transient, "ApiUnavailable"),
    ],
)
async def test_a_refusal_becomes_what_is_to_be_done_about_it(
    transport: Transport,
    server: Server,
    status: int,
    message: str,
    expected: type[OperatorError],
    reason: str,
) -> None:
    server.says(status, {"kind": "Status", "message": message})
    with pytest.raises(expected) as caught:
        await transport.call("POST", PATH, body={})
    assert type(caught.value) is expected
    assert caught.value.reason == reason
    assert message in str(caught.value)


async def test_a_server_that_asks_for_time_is_given_it(
    transport: Transport, server: Server
) -> None:
    server.says(429, {"message": "slow down"}, **{"Retry-After": "7"})
    with pytest.raises(Transient) as caught:
        await transport.call("POST", PATH, body={})
    assert caught.value.retry_after == 7


async def test_an_answer_that_is_no_json_is_an_error_like_any_other(
    transport: Transport, server: Server
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    server.handler = handler
    with pytest.raises(Transient, match="bad gateway"):
        await transport.call("GET", PATH)


async def test_a_server_that_does_not_answer_is_given_up(
    transport: Transport, server: Server
) -> None:
    with server.silent(), pytest.raises(Transient):
        await asyncio.wait_for(transport.call("GET", PATH), 5)


async def test_after_the_lease_reads_are_sent_and_writes_are_not(
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


async def test_a_write_is_waited_for_no_longer_than_the_lease_lasts(
    transport: Transport, server: Server
) -> None:
    transport.fence = lambda: 0.1
    began = time.monotonic()
    with server.silent(), pytest.raises(Transient):
        await transport.call("POST", PATH, body={})
    assert time.monotonic() - began < 0.9, "less than the patience of a read"
