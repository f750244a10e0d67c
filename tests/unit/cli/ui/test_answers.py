"""A model that does not answer holds up nothing else, and is left as soon as nobody waits."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientResponse
from tests.support.example_page import Objects
from tests.unit.cli.ui.conftest import Pages, Start

from clidocs.example_objects import CORE
from finetune_cli.cluster import chat_api, port_forward, served
from finetune_cli.errors import CommandFailed
from finetune_cli.ui import app
from finetune_cli.ui.app import LARGEST_FORM
from finetune_cli.ui.reading import job, playground, rights

ENDPOINT = "/endpoints/team-a/assistants"
SECONDS = 10.0
"""Much less than a silent model is waited for."""


class Silent:
    """A model that reads requests, and never answers."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.left: asyncio.Queue[None] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        self.asked.put_nowait(None)
        await reader.read()
        self.left.put_nowait(None)
        writer.close()


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Silent]:
    silent = Silent()
    server = await asyncio.start_server(silent.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    @contextmanager
    def connection(*arguments: Any, seconds: float) -> Iterator[HTTPConnection]:
        opened = HTTPConnection("127.0.0.1", port, timeout=seconds)
        opened.connect()
        try:
            yield opened
        finally:
            opened.close()

    monkeypatch.setattr(port_forward, "connection", connection)
    async with server:
        yield silent


@pytest.fixture
def objects(objects: Objects) -> Objects:
    """Return objects in which the endpoint assistants has a pod that answers."""
    labels = {"finetune.dev/endpoint": "assistants", "finetune.dev/stage": "serve-shared"}
    objects[f"{CORE}/pods"].append(
        {
            "metadata": {"name": "assistants-0", "namespace": "team-a", "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    return objects


async def ask(pages: Pages, text: str = "How?", path: str = f"{ENDPOINT}/ask") -> ClientResponse:
    messages = json.dumps([{"role": "user", "content": text}])
    return await pages.post(
        path, {"model": "orders", "messages": messages, "csrf": pages.session.csrf}
    )


async def within(queue: asyncio.Queue[None]) -> None:
    await asyncio.wait_for(queue.get(), SECONDS)


async def test_silent_model_holds_up_no_page(start: Start, model: Silent) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    pages = await start()
    answer = await ask(pages)
    await within(model.asked)
    await asyncio.wait_for(pages.text(ENDPOINT), SECONDS)
    answer.close()


async def test_silent_model_is_left_by_another_question_and_by_a_browser_that_is_gone(
    start: Start, model: Silent
) -> None:
    pages = await start()
    first = await ask(pages)
    await within(model.asked)
    second = await ask(pages)
    await within(model.left)
    assert await asyncio.wait_for(first.read(), SECONDS) == b""
    await within(model.asked)
    second.close()
    await within(model.left)


async def test_silent_model_is_left_at_the_end_of_the_program(start: Start, model: Silent) -> None:
    pages = await start()
    await ask(pages)
    await within(model.asked)
    await asyncio.wait_for(pages.browser.server.close(), SECONDS)
    await within(model.left)


async def test_connection_that_is_opened_after_the_interruption_is_shut_down(
    model: Silent,
) -> None:
    interruption = chat_api.Interruption()
    interruption.interrupt()
    cluster = mock.Mock()
    with (
        port_forward.connection(cluster, {}, 1, seconds=SECONDS) as opened,
        interruption.of(opened),
    ):
        assert opened.sock.recv(1) == b""


async def test_question_has_room_for_a_conversation(
    start: Start, model: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = await start()
    # Each character takes nine bytes in a form.
    answer = await ask(pages, "问" * (LARGEST_FORM // 9 + 1))
    assert answer.status == 200
    answer.close()
    assert (await ask(pages, "x" * (LARGEST_FORM + 1), "/new")).status == 413
    monkeypatch.setattr(app, "LARGEST_QUESTION", 2 * LARGEST_FORM)
    assert (await ask(pages, "x" * (2 * LARGEST_FORM + 1))).status == 413


def test_a_base_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared endpoint has the base of a name only if the verification has compared it."""
    place = served.Place(
        pod={"metadata": {"name": "assistants-0", "namespace": "team-a"}},
        endpoint="assistants",
        names=("help",),
        base="help-base",
        needs_key=False,
    )
    monkeypatch.setattr(served, "place", lambda *_: place)
    monkeypatch.setattr(job, "find", mock.Mock())
    monkeypatch.setattr(rights, "needs", mock.MagicMock())
    missing = mock.Mock(side_effect=CommandFailed("The model does not exist."))
    monkeypatch.setattr(chat_api, "answer", missing)
    where = {"namespace": "team-a", "name": "support"}
    messages = json.dumps([{"role": "user", "content": "How?"}])
    errors = {}
    for model in ("help", "help-base"):
        form = {"model": model, "messages": messages}
        with pytest.raises(CommandFailed) as error:
            list(playground.ask_job(mock.Mock(), where, form, mock.Mock()))
        errors[model] = str(error.value)
    assert errors["help"] == "The model does not exist."
    assert errors["help-base"].startswith("The model does not exist. The base model is served")
    assert errors["help-base"].endswith("only if the verification has compared it.")
