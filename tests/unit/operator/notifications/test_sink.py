"""One POST per event to a real HTTP server."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_operator.config import SinkConfig
from finetune_operator.notifications import sink as sinks
from finetune_operator.notifications.events import CloudEvent
from finetune_operator.notifications.sink import Rejected, Sink, Unavailable

EVENT = CloudEvent(
    id="uid/succeeded/2030-01-01T00:00:00Z",
    source="/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/demo",
    type="fine_tuning.job.succeeded",
    subject="demo",
    time="2030-01-01T00:00:00Z",
    data={"reason": "Serving"},
)
SECRET = "do-not-show-this"
Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("/events?a=b"))


async def with_status(status: int, **headers: str) -> Unavailable | Rejected | None:
    """Return the error after a response."""

    async def answer(request: web.Request) -> web.Response:
        text = headers.get("body", "")
        kept = {key.replace("_", "-"): each for key, each in headers.items() if key != "body"}
        return web.Response(status=status, headers=kept, text=text)

    async with serving(answer) as url:
        try:
            await Sink(SinkConfig(url=url)).send(EVENT)
        except (Unavailable, Rejected) as error:
            return error
    return None


async def test_an_event_is_posted_in_the_structured_mode(tmp_path: Path) -> None:
    received: list[web.Request] = []
    bodies: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        received.append(request)
        bodies.append(await request.read())
        return web.Response(status=202)

    token = tmp_path / "token"
    token.write_text(f"{SECRET}\n")
    async with serving(answer) as url:
        sink = Sink(SinkConfig(url=url, token_file=str(token)))
        await sink.send(EVENT)
        token.write_text("renewed")
        await sink.send(EVENT)
        await Sink(SinkConfig(url=url)).send(EVENT)
    assert [each.method for each in received] == ["POST"] * 3
    assert received[0].path_qs == "/events?a=b"
    assert received[0].headers["Content-Type"] == "application/cloudevents+json"
    assert [each.headers.get("Authorization") for each in received] == [
        f"Bearer {SECRET}",
        "Bearer renewed",
        None,
    ]
    assert json.loads(bodies[0])["id"] == EVENT.id


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_success(status: int) -> None:
    assert await with_status(status) is None


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_an_event_that_the_sink_cannot_accept_is_rejected(status: int) -> None:
    error = await with_status(status, body=SECRET)
    assert isinstance(error, Rejected)
    assert str(error) == f"HTTP {status}"


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 408, 429, 500, 503])
async def test_other_responses_are_repeated_and_redirects_not_followed(status: int) -> None:
    error = await with_status(status, Location="http://169.254.169.254/", body=SECRET)
    assert isinstance(error, Unavailable)
    assert (str(error), error.retry_after, error.answered) == (f"HTTP {status}", 0, True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("99999999", 3600), ("-1", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("²", 0)],
)
async def test_the_requested_delay_is_bounded(text: str, seconds: float) -> None:
    error = await with_status(503, Retry_After=text)
    assert isinstance(error, Unavailable)
    assert error.retry_after == seconds


async def test_a_slow_sink_is_not_awaited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "TIMEOUT_SECONDS", 0.05)

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response()

    async with serving(slow) as url:
        with pytest.raises(Unavailable, match="TimeoutError") as raised:
            await Sink(SinkConfig(url=url)).send(EVENT)
    assert not raised.value.answered


async def test_an_unreachable_sink_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="ClientConnector"):
        await Sink(SinkConfig(url="http://127.0.0.1:1/")).send(EVENT)


@pytest.mark.parametrize("content", [None, b"", b"two\nlines " + SECRET.encode(), b"\xff\xfe"])
async def test_a_token_that_cannot_be_used_is_reported_without_it(
    content: bytes | None, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with pytest.raises(Unavailable, match=r"notifications\.sink\.tokenSecret") as error:
        await Sink(SinkConfig(url="http://127.0.0.1:1/", token_file=str(token))).send(EVENT)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "url", ["events.example.com", "ftp://a", "https://", "https://user:secret@a"]
)
def test_a_url_that_cannot_be_used_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match=r"set an http|remove the user name"):
        SinkConfig(url=url)


def test_the_certificates_of_the_chart_are_trusted() -> None:
    with pytest.raises(ssl.SSLError, match="no start line"):
        Sink(SinkConfig(url="https://a"), ca_certificates="no certificate")
