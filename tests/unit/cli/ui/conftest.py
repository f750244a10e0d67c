"""The pages against the cluster of the reference page, of which a test changes objects."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer, unused_port
from tests.support import example_page
from tests.support.example_page import PREFIX, Objects

from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.access.sessions import Session
from finetune_cli.ui.app import Application

objects = example_page.objects


class Pages:
    """A server of the pages, and a browser that has logged in or not."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.port = port
        self.browser: TestClient[Any, Any]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def code(self) -> str:
        return example_page.user_of(self.application).code

    @property
    def session(self) -> Session:
        return example_page.session_of(self.application)

    async def get(self, path: str, **options: Any) -> ClientResponse:
        return await self.browser.get(PREFIX + path, allow_redirects=False, **options)

    async def post(
        self, path: str, data: dict[str, str], origin: str | None = "", **options: Any
    ) -> ClientResponse:
        headers = {} if origin is None else {"Origin": origin or f"http://{self.host}"}
        headers |= options.pop("headers", {})
        return await self.browser.post(
            PREFIX + path, data=data, headers=headers, allow_redirects=False, **options
        )

    async def text(self, path: str, status: int = 200) -> str:
        answer = await self.get(path)
        text = await answer.text()
        assert answer.status == status, text
        return text


Start = Callable[..., Awaitable[Pages]]


@pytest.fixture
def cluster(objects: Objects) -> Iterator[Callable[[], Cluster]]:
    """Return a function that starts the cluster."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(example_page.cluster_of(objects))


@pytest.fixture
async def start(cluster: Callable[[], Cluster]) -> AsyncIterator[Start]:
    """Return a function that starts the pages; login: whether the browser logs in."""
    browsers = []

    async def start(*, login: bool = True, user: Cluster | None = None) -> Pages:
        port = unused_port()
        origin = f"http://127.0.0.1:{port}"
        application = example_page.application(user or cluster(), [origin])
        pages = Pages(application, port)
        server = TestServer(application.build(), host="127.0.0.1", port=port)
        pages.browser = TestClient(server, cookie_jar=CookieJar(unsafe=True))
        await pages.browser.start_server()
        browsers.append(pages.browser)
        if login:
            answer = await pages.post("/login", {"code": pages.code})
            assert answer.status == 303
        return pages

    yield start
    for browser in browsers:
        await browser.close()
