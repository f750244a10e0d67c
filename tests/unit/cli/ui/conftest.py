"""The pages against the cluster of the reference page, of which a test changes objects."""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer, unused_port
from kubernetes import client as kubernetes_client

from clidocs import (
    example_cluster,
    example_endpoints,
    example_jobs,
    example_objects,
    example_schema,
)
from finetune_cli.cluster import job
from finetune_cli.cluster.api import Cluster
from finetune_cli.ui.access.sessions import Sessions
from finetune_cli.ui.app import Application

Objects = dict[str, list[dict[str, Any]]]
PREFIX = "/a-random-path"
ALL_JOBS = "/apis/finetune.dev/v1alpha1/finetunejobs"


class Pages:
    """A server of the pages, and a browser that has logged in or not."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.port = port
        self.browser: TestClient[Any, Any]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

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
def objects() -> Objects:
    """Return the objects of the cluster; a change before the first request takes effect."""
    found = copy.deepcopy(
        {
            **example_objects.COLLECTIONS,
            **example_endpoints.COLLECTIONS,
            **example_schema.COLLECTIONS,
        }
    )
    found[ALL_JOBS] = found[example_objects.JOBS]
    return found


@pytest.fixture
def cluster(objects: Objects) -> Iterator[Callable[[], Cluster]]:
    """Return a function that starts the cluster, at the fixed time of the examples."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(job, "now", return_value=example_jobs.NOW))

        def start() -> Cluster:
            settings = kubernetes_client.Configuration()
            settings.host = stack.enter_context(example_cluster.serving(objects))
            settings.retries = False
            return Cluster(
                api=kubernetes_client.ApiClient(settings),
                namespace=example_jobs.NAMESPACE,
                context="demo",
            )

        yield start


@pytest.fixture
async def start(cluster: Callable[[], Cluster]) -> AsyncIterator[Start]:
    """Return a function that starts the pages; login: whether the browser logs in."""
    browsers = []

    async def start(*, login: bool = True, user: Cluster | None = None) -> Pages:
        port = unused_port()
        found = user or cluster()
        application = Application(
            sessions=Sessions(),
            client_of=lambda request: found,
            hosts=(f"127.0.0.1:{port}",),
            prefix=PREFIX,
        )
        pages = Pages(application, port)
        server = TestServer(application.build(), host="127.0.0.1", port=port)
        pages.browser = TestClient(server, cookie_jar=CookieJar(unsafe=True))
        await pages.browser.start_server()
        browsers.append(pages.browser)
        if login:
            answer = await pages.post("/login", {"code": application.sessions.code})
            assert answer.status == 303
        return pages

    yield start
    for each in browsers:
        await each.close()
