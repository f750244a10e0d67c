"""A relay between an operator and the API server that injects failures.

It serves HTTP on the loopback interface and forwards every request unless ``decide`` returns
another fate. A request that is held arrives late: it is passed on when the relay is released,
even where its sender has given up. It runs in a thread of its own.
"""

import asyncio
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
from tests.integration.controlplane import TOKEN, ControlPlane

WRITES = ("POST", "PUT", "PATCH", "DELETE")
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
        """Whether it changes something."""
        return self.method in WRITES

    @property
    def watches(self) -> bool:
        """Whether its answer is a stream."""
        return self.query.get("watch") in ("1", "true")

    @property
    def namespace(self) -> str:
        """The namespace that it is about, empty where it is about none."""
        words = self.path.split("/")
        return words[words.index("namespaces") + 1] if "namespaces" in words else ""


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What becomes of a call.

    pass: it is answered by the API server. answer: the relay answers with ``status``, and with
    ``body`` or a Status that holds ``message``. cut: the
    connection is closed, nothing arrives. lose: it arrives, and the connection is closed instead of
    an answer. hold: it waits until the relay is released, then it arrives.
    """

    what: Literal["pass", "answer", "cut", "lose", "hold"] = "pass"
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "as the test wants it"
    body: bytes = b""


PASS = Fate()
CUT = Fate(what="cut")
LOSE = Fate(what="lose")
HOLD = Fate(what="hold")


def answer(status: int, **headers: str) -> Fate:
    """Return the fate of a call that the API server refuses."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Fate(what="answer", status=status, headers=named)


class Relay:
    """See the module. ``decide`` may be exchanged at any time; the relay's thread calls it."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.decide: Callable[[Call], Fate] = lambda call: PASS
        self.after: Callable[[Call, int], None] = lambda call, status: None
        """Called once the API server has answered a call that arrived, with the HTTP status."""
        self.calls: list[Call] = []
        self._plane = plane
        self._loop = asyncio.new_event_loop()
        self._released: asyncio.Event
        self._streams: set[web.StreamResponse] = set()
        self._silent = False

    # For tests, in their thread.

    def hold(self) -> None:
        """From now on nothing passes in either direction, as if the network were paused."""
        self.decide = lambda call: HOLD
        self.silence(True)

    def release(self) -> None:
        """Let everything pass again, and what was held arrive."""
        self.decide = lambda call: PASS
        self.silence(False)
        self._in_thread(self._release())

    def silence(self, silent: bool) -> None:
        """Let nothing more come through the open watches, which stay open; or again."""
        self._silent = silent

    def cut_watches(self) -> int:
        """Close every open watch; return how many there were."""
        return int(self._in_thread(self._cut_watches()))

    @property
    def watches(self) -> int:
        """How many watches are open."""
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

    # In the relay's thread.

    def run(self, started: "Future[int]") -> None:
        """Serve until the loop is stopped."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: "Future[int]") -> None:
        self._released, self._stopped = asyncio.Event(), asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, ssl=self._plane.tls)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers={"Accept-Encoding": "identity"}
        ) as self._session:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_route("*", "/{path:.*}", self._relay)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            started.set_result(runner.addresses[0][1])
            await self._stopped.wait()
            await self._release()
            await self._cut_watches()
            await runner.cleanup()
            # What its client has left is still being answered.
            for task in (others := asyncio.all_tasks() - {asyncio.current_task()}):
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        # A TLS connection that was closed is gone some turns of the loop later, and says nothing.
        await asyncio.sleep(0.2)

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
        fate = self.decide(call)
        if fate.what == "hold":
            await self._released.wait()
        if fate.what == "answer" and fate.body:
            return web.Response(body=fate.body, status=fate.status, content_type="application/json")
        if fate.what == "answer":
            status = {"kind": "Status", "code": fate.status, "message": fate.message}
            return web.json_response(status, status=fate.status, headers=fate.headers)
        if fate.what == "cut":
            return _closed(request)
        headers = {key: request.headers[key] for key in KEPT if key in request.headers}
        url = f"{self._plane.server}{request.raw_path}"
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as got:
            if call.watches and got.status == 200:
                return await self._stream(request, got)
            text = await got.read()
            self.after(call, got.status)
            if fate.what == "lose":
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
    """Run a relay until the end of the block; ``kubeconfig`` is the way through it."""
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
