"""A relay between an operator and the API server that injects failures.

It serves HTTP on the loopback interface and forwards every request unless ``decide`` returns
another outcome. A held request is forwarded when the relay is released, even if the client has
closed the connection. The relay runs in a separate thread.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import yaml
from aiohttp import web
from tests.support.api_server.controlplane import TOKEN, ControlPlane

WRITES = ("POST", "PUT", "PATCH", "DELETE")
ACCEPTED_AFTER = 5
"""Iterations of the loop after which a connection that was accepted is known to the server."""
KEPT = ("Accept", "Content-Type", "Authorization", "User-Agent")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request of the operator. ``number`` counts the calls of one relay from 1.

    at: seconds of the monotonic clock.
    """

    number: int
    at: float
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)

    @property
    def writes(self) -> bool:
        """Whether the request can change an object."""
        return self.method in WRITES

    @property
    def watches(self) -> bool:
        """Whether the request is a watch."""
        return self.query.get("watch") in ("1", "true")

    @property
    def namespace(self) -> str:
        """The namespace in the path; empty for a request without a namespace."""
        words = self.path.split("/")
        return words[words.index("namespaces") + 1] if "namespaces" in words[:-1] else ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a call.

    pass: the API server answers the call. answer: the relay answers with ``status``, and with
    ``body`` or a Status that contains ``message``. cut: the relay closes the connection without
    forwarding the call. lose: the relay forwards the call and closes the connection without an
    answer.
    hold: the relay forwards the call after ``Relay.release``.
    """

    what: Literal["pass", "answer", "cut", "lose", "hold"] = "pass"
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "injected by the test"
    body: bytes = b""


PASS = Outcome()
CUT = Outcome(what="cut")
LOSE = Outcome(what="lose")
HOLD = Outcome(what="hold")


def answer(status: int, **headers: str) -> Outcome:
    """Return the outcome of a call that is rejected with a status and headers."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Outcome(what="answer", status=status, headers=named)


class Relay:
    """A running relay. Tests can replace ``decide`` at any time; the relay's thread calls it."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.decide: Callable[[Call], Outcome] = lambda call: PASS
        self.after: Callable[[Call, int], None] = lambda call, status: None
        """Called with a forwarded call and the HTTP status of the response of the API server."""
        self.calls: list[Call] = []
        self._plane = plane
        self._loop = asyncio.new_event_loop()
        self._released: asyncio.Event
        self._streams: set[web.StreamResponse] = set()
        self._sockets: list[socket.socket] = []
        self._silent = False

    # Methods that the tests call in their own thread.

    def hold(self) -> None:
        """Hold all traffic in both directions, as if the network were paused."""
        self.decide = lambda call: HOLD
        self.silence(True)

    def release(self) -> None:
        """Pass all traffic again, and forward the held calls."""
        self.decide = lambda call: PASS
        self.silence(False)
        self._in_thread(self._release())

    def silence(self, silent: bool) -> None:
        """Drop all events of the open watches, which stay open, or pass the events again."""
        self._silent = silent

    def cut_watches(self) -> int:
        """Close all open watches; return their number."""
        return int(self._in_thread(self._cut_watches()))

    @property
    def watches(self) -> int:
        """The number of open watches."""
        return len(self._streams)

    def _in_thread(self, work: Any) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return done.result(30)

    async def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _cut_watches(self) -> int:
        streams = list(self._streams)
        for stream in streams:
            _close(stream)
        return len(streams)

    # Methods that run in the thread of the relay.

    def run(self, started: "Future[int]") -> None:
        """Serve until the loop is stopped."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: "Future[int]") -> None:
        self._released, self._stopped = asyncio.Event(), asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, ssl=self._plane.tls, socket_factory=self._socket)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"Accept-Encoding": "identity"}
        ) as self._session:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_route("*", "/{path:.*}", self._relay)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            listening = socket.create_server(("127.0.0.1", 0))
            await web.SockSite(runner, listening).start()
            started.set_result(runner.addresses[0][1])
            await self._stopped.wait()
            await self._release()
            # asyncio never closes a connection that it accepted just before the server was closed.
            self._loop.remove_reader(listening)
            for _ in range(ACCEPTED_AFTER):
                await asyncio.sleep(0)
            await self._cut_watches()
            await runner.cleanup()
            # Requests whose client has closed the connection are still in progress.
            for task in (others := asyncio.all_tasks() - {asyncio.current_task()}):
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        # The API server would confirm the end of each TLS connection; on a busy machine it is late.
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(20):
            # asyncio reports a closed transport only to its protocol, which aiohttp owns.
            while any(each.fileno() >= 0 for each in self._sockets):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.append(made)
        return made

    def stop(self) -> None:
        """End the thread's loop."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _relay(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(
            number=len(self.calls) + 1,
            at=time.monotonic(),
            method=request.method,
            path=request.path,
            query=dict(request.query),
            body=body,
        )
        self.calls.append(call)
        outcome = self.decide(call)
        if outcome.what == "hold":
            await self._released.wait()
        if outcome.what == "answer" and outcome.body:
            return web.Response(
                body=outcome.body, status=outcome.status, content_type="application/json"
            )
        if outcome.what == "answer":
            status = {"kind": "Status", "code": outcome.status, "message": outcome.message}
            return web.json_response(status, status=outcome.status, headers=outcome.headers)
        if outcome.what == "cut":
            return _closed(request)
        # kubectl and helm send no token without TLS.
        headers = {"Authorization": f"Bearer {TOKEN}"}
        headers |= {key: request.headers[key] for key in KEPT if key in request.headers}
        url = f"{self._plane.server}{request.raw_path}"
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as got:
            if call.watches and got.status == 200:
                return await self._stream(request, got)
            text = await got.read()
            self.after(call, got.status)
            if outcome.what == "lose":
                return _closed(request)
            kind = {"Content-Type": got.headers.get("Content-Type", "application/json")}
            kind |= {key: got.headers[key] for key in ("Retry-After",) if key in got.headers}
            return web.Response(status=got.status, body=text, headers=kind)

    async def _stream(
        self, request: web.Request, got: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        self._streams.add(stream)
        try:
            with suppress(ConnectionError, aiohttp.ClientError):
                async for chunk in got.content.iter_any():
                    if not self._silent:
                        await stream.write(chunk)
        finally:
            self._streams.discard(stream)
        return stream


def _close(response: web.StreamResponse) -> None:
    request = response._req
    if request is not None and request.transport is not None:
        request.transport.abort()


def _closed(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


@contextmanager
def relay(plane: ControlPlane, folder: Path) -> Iterator[Relay]:
    """Run a relay until the end of the block; its ``kubeconfig`` connects through the relay."""
    kubeconfig = folder / "kubeconfig-of-the-relay"
    running = Relay(plane, kubeconfig)
    started: Future[int] = Future()
    thread = threading.Thread(target=running.run, args=(started,), daemon=True)
    thread.start()
    port = started.result(30)
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "relay",
                "clusters": [{"name": "relay", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "administrator", "user": {"token": TOKEN}}],
                "contexts": [
                    {"name": "relay", "context": {"cluster": "relay", "user": "administrator"}}
                ],
            }
        )
    )
    try:
        yield running
    finally:
        running.stop()
        thread.join(30)
