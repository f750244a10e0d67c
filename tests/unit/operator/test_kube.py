"""The client against an HTTP server: what it sends, and what it makes of the answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from tests.unit.operator.memory import child, job

from finetune_operator.errors import Conflict, NotFound, OperatorError, Terminal, Transient
from finetune_operator.kube import Kube

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers with ``handler``; keeps the requests and their bodies."""

    def __init__(self) -> None:
        self.handler: Handler = self.echo
        self.requests: list[tuple[web.Request, Any]] = []

    async def echo(self, request: web.Request) -> web.Response:
        return web.json_response({"metadata": {}})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.requests.append((request, json.loads(text) if text else None))
        return await self.handler(request)

    def says(self, status: int, body: Any, **headers: str) -> None:
        async def handler(request: web.Request) -> web.Response:
            return web.json_response(body, status=status, headers=headers)

        self.handler = handler


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[Kube]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
    configuration.api_key["BearerToken"] = "bearer secret"

    async def renew(known: Configuration) -> None:
        known.api_key["BearerToken"] = "bearer renewed"

    client = Kube(ApiClient(configuration), timeout=1.0, renew=renew)
    yield client
    await client.close()
    await runner.cleanup()


async def test_a_token_that_is_refused_is_read_anew(kube: Kube, server: Server) -> None:
    server.says(401, {"message": "Unauthorized"})
    with pytest.raises(Transient):
        await kube.get("Service", "a", "s")
    server.says(200, {})
    await kube.get("Service", "a", "s")
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
    kube: Kube,
    server: Server,
    status: int,
    message: str,
    expected: type[OperatorError],
    reason: str,
) -> None:
    server.says(status, {"kind": "Status", "message": message})
    with pytest.raises(expected) as caught:
        await kube.create(child("ConfigMap", "x"))
    assert type(caught.value) is expected
    assert caught.value.reason == reason
    assert message in str(caught.value)


async def test_a_server_that_asks_for_time_is_given_it(kube: Kube, server: Server) -> None:
    server.says(429, {"message": "slow down"}, **{"Retry-After": "7"})
    with pytest.raises(Transient) as caught:
        await kube.create(child("ConfigMap", "x"))
    assert caught.value.retry_after == 7


async def test_an_answer_that_is_no_json_is_an_error_like_any_other(
    kube: Kube, server: Server
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    server.handler = handler
    with pytest.raises(Transient, match="bad gateway"):
        await kube.get("Pod", "a", "x")


async def test_a_server_that_does_not_answer_is_given_up(kube: Kube, server: Server) -> None:
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    server.handler = handler
    with pytest.raises(Transient):
        await asyncio.wait_for(kube.get("Pod", "a", "x"), 5)
    never.set()


async def test_what_is_not_there_is_none(kube: Kube, server: Server) -> None:
    server.says(404, {"message": "not found"})
    assert await kube.get("Pod", "a", "x") is None
    await kube.delete(child("Pod", "x") | {"metadata": _identity()}, propagation="Foreground")


async def test_a_list_is_read_to_its_last_page(kube: Kube, server: Server) -> None:
    pages = {None: (["a", "b"], "more"), "more": (["c"], "")}

    async def handler(request: web.Request) -> web.Response:
        names, rest = pages[request.query.get("continue")]
        items = [{"metadata": {"name": name}} for name in names]
        return web.json_response({"items": items, "metadata": {"continue": rest}})

    server.handler = handler
    found = await kube.list("Deployment", "ns", labels="finetune.dev/job=x")
    assert [each["metadata"]["name"] for each in found] == ["a", "b", "c"]
    assert {(each["kind"], each["apiVersion"]) for each in found} == {("Deployment", "apps/v1")}
    assert [request.path for request, _ in server.requests] == [
        "/apis/apps/v1/namespaces/ns/deployments"
    ] * 2
    assert all(r.query["labelSelector"] == "finetune.dev/job=x" for r, _ in server.requests)


async def test_a_list_over_all_namespaces_has_none_in_its_path(kube: Kube, server: Server) -> None:
    server.says(200, {"items": []})
    assert await kube.list("Pod") == ()
    assert server.requests[0][0].path == "/api/v1/pods"


async def test_a_limited_list_ends_with_its_first_page(kube: Kube, server: Server) -> None:
    server.says(200, {"items": [{"metadata": {}}], "metadata": {"continue": "more"}})
    assert len(await kube.list("Event", "ns", fields="type=Warning", limit=5)) == 1
    (request, _), *_ = server.requests
    assert (request.query["limit"], request.query["fieldSelector"]) == ("5", "type=Warning")


async def test_apply_names_its_manager_and_takes_over_fields(kube: Kube, server: Server) -> None:
    await kube.apply(child("Service", "x"))
    request, body = server.requests[0]
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/a/services/x")
    assert dict(request.query) == {"fieldManager": "finetune-operator", "force": "true"}
    assert request.content_type == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "bearer secret"
    assert body == child("Service", "x")


async def test_a_delete_names_what_was_observed_and_a_propagation(
    kube: Kube, server: Server
) -> None:
    await kube.delete({"kind": "Job", "metadata": _identity()}, propagation="Foreground")
    request, body = server.requests[0]
    assert (request.method, request.path) == ("DELETE", "/apis/batch/v1/namespaces/a/jobs/x")
    assert body == {
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
    }


async def test_a_status_is_put_with_the_observed_version(kube: Kube, server: Server) -> None:
    await kube.replace_status(job() | {"metadata": _identity()}, {"observedGeneration": 1})
    request, body = server.requests[0]
    path = "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status"
    assert (request.method, request.path) == ("PUT", path)
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["status"] == {"observedGeneration": 1}


async def test_a_missing_crd_is_named_with_the_way_out(kube: Kube, server: Server) -> None:
    server.says(404, {"message": "not found"})
    with pytest.raises(Terminal, match="install the CRD"):
        await kube.require_served()


def _identity() -> dict[str, str]:
    return {"name": "x", "namespace": "a", "uid": "u", "resourceVersion": "7"}
