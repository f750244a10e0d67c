"""The sizes of the pages of lists, of the client and of kopf."""

import asyncio
import contextlib
import json
from pathlib import Path

import kopf
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.operator.conftest import Server

from finetune_operator.kube import auth
from finetune_operator.kube.client import Kube
from finetune_operator.kube.page_size import KOPF_PAGE, PAGE, PAGE_BYTES, PageSize, PageTooLarge
from finetune_operator.kube.transport import Transport

LARGEST = 1_500_000
"""Bytes of an object that etcd accepts."""


def listed(sizes: list[int], most: int = PAGE) -> tuple[list[int], list[int], int]:
    """List objects of these sizes; return the bytes and objects of each page, and the requests."""
    size, position, requests = PageSize(most), 0, 0
    lengths, counts = [], []
    while position < len(sizes):
        requests += 1
        page = sizes[position : position + size.now]
        assert len(page) <= most
        try:
            size.check(min(sum(page), size.most_bytes or sum(page)))
        except PageTooLarge:
            continue
        position += len(page)
        lengths.append(sum(page))
        counts.append(len(page))
    return lengths, counts, requests


@given(st.lists(st.sampled_from([10, 1_000, 10_000, 100_000, LARGEST]), max_size=300))
def test_no_page_is_larger_than_the_limit_or_one_object(sizes: list[int]) -> None:
    lengths, counts, requests = listed(sizes)
    assert all(
        length <= PAGE_BYTES or count == 1 for length, count in zip(lengths, counts, strict=True)
    )
    assert sum(lengths) == sum(sizes)
    # At worst, each object is requested alone, and each growth is taken back.
    assert requests <= 2 * len(sizes) + 10


def test_small_objects_are_read_in_large_pages() -> None:
    assert listed([1_000] * 5_000)[2] <= 5_000 / PAGE + 7
    assert listed([8_000] * 5_000, KOPF_PAGE)[2] <= 5_000 / KOPF_PAGE + 3


def test_large_objects_are_read_one_by_one() -> None:
    lengths, _, requests = listed([LARGEST] * 500)
    assert max(lengths) == LARGEST
    assert requests <= 502


class Objects:
    """A list on an API server, in pages of the requested size."""

    def __init__(self, count: int, padding: int) -> None:
        self.items = [{"metadata": {"name": str(n), "x": "y" * padding}} for n in range(count)]
        self.requested: list[int] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        limit, start = int(request.query["limit"]), int(request.query.get("continue") or 0)
        self.requested.append(limit)
        end = start + limit
        rest = str(end) if end < len(self.items) else ""
        body = {"items": self.items[start:end], "metadata": {"continue": rest}}
        return web.json_response(body, headers={"X": request.headers.get("Authorization", "")})


async def test_the_client_reads_large_objects_in_small_pages(
    transport: Transport, server: Server
) -> None:
    objects = Objects(30, 400_000)
    server.handler = objects
    found = await Kube(transport).list("Pod", "ns")
    assert [each["metadata"]["name"] for each in found] == [str(n) for n in range(30)]
    assert objects.requested[0] > 5
    assert set(objects.requested[1:]) <= set(range(1, 6))


async def test_only_the_beginning_of_a_page_that_is_too_long_is_read(
    transport: Transport, server: Server
) -> None:
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        if request.query["limit"] == "1":
            return web.json_response({"items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" " * 100_000)
                sent += 100_000
        return response

    server.handler = endless
    assert await Kube(transport).list("Pod", "ns") == ()
    # The client's and the server's buffers are filled for each size that is tried.
    assert sent < 5 * (PAGE_BYTES + (16 << 20))


def test_the_session_of_kopf_reads_large_objects_in_small_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(30, 400_000)

    async def run() -> list[str]:
        runner = web.ServerRunner(web.Server(objects))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        config = {
            "clusters": [{"name": "a", "cluster": {"server": url}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "users": [{"name": "a", "user": {"token": "t"}}],
            "current-context": "a",
        }
        (tmp_path / "config").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        login = await auth.kopf_login()
        assert isinstance(login, kopf.AiohttpSession)
        names, token = [], ""
        async with login.aiohttp_session as session:
            while True:
                query = f"{url}/list?limit={KOPF_PAGE}&continue={token}"
                async with await session.request("get", query) as response:
                    assert response.headers["X"] == "Bearer t"
                    page = json.loads(await response.text())
                names += [each["metadata"]["name"] for each in page["items"]]
                token = page["metadata"]["continue"]
                if not token:
                    break
        await runner.cleanup()
        return names

    monkeypatch.setattr(auth, "_are_rejected", _accepted)
    assert asyncio.run(run()) == [str(n) for n in range(30)]
    assert objects.requested[0] > 5
    assert set(objects.requested[1:]) <= set(range(1, 6))


async def _accepted(_: object) -> bool:
    return False
