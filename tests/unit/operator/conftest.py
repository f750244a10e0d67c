"""An HTTP server that acts as the API server, and a transport to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.kube.connection import Connection
from finetune_operator.kube.transport import Transport

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Responds with ``handler``, and records the requests and their bodies."""

    def __init__(self) -> None:
        self.handler: Handler = self.echo
        self.requests: list[tuple[web.Request, Any]] = []

    async def echo(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.requests.append((request, json.loads(text) if text else None))
        return await self.handler(request)

    def responds(self, status: int, body: Any, **headers: str) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response(body, status=status, headers=headers)

        self.handler = handler

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Send no response until the end of the block."""
        ended = asyncio.Event()

        async def handler(request: web.Request) -> web.Response:
            await ended.wait()
            return web.Response()

        self.handler = handler
        yield
        ended.set()


@pytest.fixture
async def server() -> Server:
    return Server()


@asynccontextmanager
async def connected(server: Server, *, seconds: float) -> AsyncIterator[Transport]:
    """Start the server; yield a transport whose requests end after ``seconds``."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    configuration.api_key["BearerToken"] = "bearer secret"

    async def renew(configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = "bearer renewed"

    connection = Transport(Connection(configuration), timeout=seconds, renew=renew)
    yield connection
    await connection.close()
    await runner.cleanup()


@pytest.fixture
async def transport(server: Server) -> AsyncIterator[Transport]:
    """A transport with a timeout that a busy machine does not reach."""
    async with connected(server, seconds=60.0) as connection:
        yield connection
