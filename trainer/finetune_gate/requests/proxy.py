"""One request: from the caller to vLLM, and the response back.

The gate sends a request of its own to vLLM, with its own headers, so nothing of the caller but the
allowed fields arrives. If a caller leaves, its handler is cancelled, which closes the connection to
vLLM, and vLLM stops generating. For a slow reader of a stream, the gate holds no more than the
buffers of its two connections, because it reads the next bytes of vLLM when it has sent the last
ones. Answers that are no streams are held until they are accepted, up to a limit (``bodies``).
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from finetune_api.safety import untrusted_json
from finetune_gate import keys
from finetune_gate.engine import URL, Engine
from finetune_gate.errors import BadRequest, Busy, NotRead
from finetune_gate.events import Events, Tokens, TooLong, tokens_of
from finetune_gate.names import Route, Table
from finetune_gate.queue.places import Places
from finetune_gate.requests import bodies, fields
from finetune_gate.requests.bodies import Bodies, Body, NoRoom
from finetune_gate.requests.outlet import FITS, Left, Outlet
from finetune_gate.usage import Outcome, Usage

HEADERS = {"Content-Type": "application/json"}
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
RETRY = {"Retry-After": "1"}
Forwarded = Callable[[Route, fields.Body, str], fields.Body]
"""Returns the request for vLLM, of a route, the body of a caller, and a cache salt."""


class Names(Protocol):
    """The names of the endpoint: those that answer, and whether another one is expected to."""

    table: Table

    def is_wanted(self, name: str, caller: keys.Caller) -> bool:
        """Report whether a name is wanted and for this caller, proved or not."""

    def is_known(self, caller: keys.Caller) -> bool:
        """Report whether any name is wanted and for this caller."""

    def has_key(self, caller: keys.Caller) -> bool:
        """Report whether a caller has a key of any name."""


@dataclass
class _Request:
    """Progress of a request that has a route."""

    route: Route
    began: float
    is_stream: bool = False
    show_usage: bool = False
    outcome: Outcome = "disconnected"
    """Until another one is known."""
    tokens: Tokens = field(default_factory=Tokens)


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """An answer that is no stream, under the public name."""

    status: int
    content: bytes


class Proxy:
    """The routes of callers."""

    def __init__(self, engine: Engine, places: Places, usage: Usage, names: Names) -> None:
        self._engine, self._places, self._usage, self._names = engine, places, usage, names
        self._bodies = Bodies(longest=bodies.LONGEST, most=bodies.MOST_BYTES)
        self._answers = Bodies(longest=bodies.LONGEST_ANSWER, most=bodies.MOST_ANSWER_BYTES)

    async def models(self, request: web.Request) -> web.Response:
        """List the names that the caller may use, and no others."""
        routes = self._current().visible(keys.caller(request.headers.get("Authorization")))
        data = [{"id": route.name, "object": "model", "owned_by": "finetune"} for route in routes]
        return web.json_response({"object": "list", "data": data})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer /v1/chat/completions."""

        def sent(route: Route, body: fields.Body, salt: str) -> fields.Body:
            return fields.forwarded_chat(
                body, internal=route.internal, salt=salt, template=route.template
            )

        return await self._answer(request, "/v1/chat/completions", sent)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer /v1/completions."""

        def sent(route: Route, body: fields.Body, salt: str) -> fields.Body:
            return fields.forwarded_completion(body, internal=route.internal, salt=salt)

        return await self._answer(request, "/v1/completions", sent)

    def _current(self) -> Table:
        """Return the table, which is empty once vLLM has restarted."""
        table = self._names.table
        return table if table.boot == self._engine.boot() else Table()

    async def _answer(
        self,
        request: web.Request,
        path: str,
        sent: Forwarded,
    ) -> web.StreamResponse:
        caller = keys.caller(request.headers.get("Authorization"))
        if not self._names.is_known(caller):
            return _unknown()
        # Whoever has no key may send another one with each request.
        holder = caller if self._names.has_key(caller) else keys.ANONYMOUS
        try:
            with self._bodies.of(holder) as body, self._answers.of(holder) as answer:
                data = await bodies.of_request(request, body)
                return await self._answer_body(request, path, sent, caller, body, data, answer)
        except NotRead as error:
            headers = RETRY if error.status == 503 else None
            return _error(error.status, str(error), "body", headers=headers)

    async def _answer_body(
        self,
        request: web.Request,
        path: str,
        sent: Forwarded,
        caller: str,
        body: Body,
        data: bytes,
        answer: Body,
    ) -> web.StreamResponse:
        began, asked = time.monotonic(), _object(data)
        if asked is None:
            return _error(400, "the body of the request is no JSON object", "body")
        name = asked.get("model")
        # From here to the queue nothing waits, so the adapter of the route is not unloaded.
        route = self._current().find(name, caller) if isinstance(name, str) else None
        if route is None and isinstance(name, str) and self._names.is_wanted(name, caller):
            return _unavailable()
        if route is None:
            return _unknown()
        current = _Request(route=route, began=began)
        try:
            # Callers of one name do not share cached prompts: their latency would reveal them.
            data = json.dumps(sent(route, asked, f"{route.salt}{caller}")).encode()
            current.is_stream = bool(asked.get("stream"))
            current.show_usage = fields.wants_usage(asked)
            # While it waits, only its bytes are held.
            del asked
            body.keep(len(data))
            async with self._places.place(route.queue):
                response = await self._forward(request, path, data, current, answer)
            if isinstance(response, _Whole):
                return await _send(request, response, current)
            return response
        except BadRequest as error:
            current.outcome = "rejected"
            return _error(400, str(error), error.field)
        except Busy as error:
            current.outcome = "busy"
            return _error(429, f"{error}: retry later", "model", headers=RETRY)
        finally:
            seconds = time.monotonic() - began
            self._usage.ended(route.name, current.outcome, current.tokens, seconds)

    async def _forward(
        self, request: web.Request, path: str, data: bytes, current: _Request, answer: Body
    ) -> web.StreamResponse | _Whole:
        try:
            async with self._engine.session.post(
                f"{URL}{path}", data=data, headers=HEADERS
            ) as upstream:
                if upstream.status == 200 and current.is_stream:
                    return await self._stream(request, upstream, current)
                return await _whole(upstream, current, answer)
        except (aiohttp.ClientError, TimeoutError):
            current.outcome = "failed"
            return _unavailable()
        except NoRoom:
            current.outcome = "busy"
            message = (
                "the answers that callers with this key, or without one, have not read yet are too "
                "long together: set stream to true, or retry later"
            )
            return _error(503, message, "stream", headers=RETRY)

    async def _stream(
        self, request: web.Request, upstream: aiohttp.ClientResponse, current: _Request
    ) -> web.StreamResponse:
        """Pass on a stream. A stream that does not end as a whole ends the connection."""
        route = current.route
        events = Events(
            internal=route.internal,
            public=route.name,
            show_usage=current.show_usage,
        )
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        outlet, is_first = Outlet(request, response), True
        try:
            async for data in upstream.content.iter_any():
                complete = events.feed(data)
                if not complete:
                    continue
                if is_first:
                    self._usage.first_token(route.name, time.monotonic() - current.began)
                    is_first = False
                await outlet.write(complete)
            if not events.is_complete:
                raise aiohttp.ClientPayloadError
            await outlet.end()
            current.outcome = "completed"
        except (aiohttp.ClientError, TooLong, TimeoutError, ValueError):
            current.outcome = "failed"
            outlet.abort()
        except Left:
            current.outcome = "disconnected"
        finally:
            current.tokens = events.tokens
        return response


async def _whole(
    upstream: aiohttp.ClientResponse, current: _Request, answer: Body
) -> _Whole | web.Response:
    """Return an answer that is no stream. Raise NoRoom or BadRequest."""
    route = current.route
    try:
        content = await answer.read(upstream.content)
    except bodies.BodyTooLong:
        raise BadRequest(
            "stream",
            f"the answer has more than {bodies.LONGEST_ANSWER} bytes: set stream to true, or ask "
            "for fewer tokens or log-probabilities",
        ) from None
    if upstream.status == 404 or upstream.status >= 500:
        # An internal name is unknown only to an engine that has just restarted.
        current.outcome = "failed"
        return _unavailable()
    if upstream.status == 200:
        current.tokens = tokens_of(content)
    public = json.dumps(route.name)[1:-1].encode()
    return _Whole(status=upstream.status, content=content.replace(route.internal.encode(), public))


async def _send(request: web.Request, whole: _Whole, current: _Request) -> web.StreamResponse:
    """Send an answer, in parts: what the caller does not accept is not held for long."""
    response = web.StreamResponse(status=whole.status, headers=HEADERS)
    response.content_length = len(whole.content)
    await response.prepare(request)
    outlet = Outlet(request, response)
    try:
        for start in range(0, len(whole.content), FITS):
            await outlet.write(whole.content[start : start + FITS])
        await outlet.end()
        current.outcome = "completed" if whole.status == 200 else "rejected"
    except (Left, TimeoutError):
        outlet.abort()
    return response


def _object(data: bytes) -> fields.Body | None:
    try:
        document: Any = untrusted_json.parse(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _error(
    status: int, message: str, field: str | None, *, headers: dict[str, str] | None = None
) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": field, "code": status}
    return web.json_response({"error": error}, status=status, headers=headers)


def _unknown() -> web.Response:
    return _error(404, "The model does not exist, or you have no access to it.", "model")


def _unavailable() -> web.Response:
    return _error(
        503, "the engine is restarting, or the model is being proved again", None, headers=RETRY
    )
