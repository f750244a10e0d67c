"""Requests of the client, and the handling of responses, against an HTTP server."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from tests.fakes.kube_client import child, job
from tests.unit.operator.conftest import Server

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal, Transient
from finetune_operator.kube.transport import Transport


@pytest.fixture
def kube(transport: Transport) -> Kube:
    return Kube(transport)


async def test_a_missing_object_is_none_and_deleting_it_is_success(
    kube: Kube, server: Server
) -> None:
    server.responds(404, {"message": "not found"})
    assert await kube.get("Pod", "a", "x") is None
    await kube.delete(child("Pod", "x") | {"metadata": _identity()}, propagation="Foreground")


async def test_a_list_contains_all_pages(kube: Kube, server: Server) -> None:
    pages = {None: (["a", "b"], "more"), "more": (["c"], "")}

    async def handler(request: web.Request) -> web.Response:
        names, rest = pages[request.query.get("continue")]
        items = [{"metadata": {"name": name}} for name in names]
        return web.json_response({"items": items, "metadata": {"continue": rest}})

    server.handler = handler
    objects = await kube.list("Deployment", "ns", labels="finetune.dev/job=x")
    assert [each["metadata"]["name"] for each in objects] == ["a", "b", "c"]
    assert {(each["kind"], each["apiVersion"]) for each in objects} == {("Deployment", "apps/v1")}
    assert [request.path for request, _ in server.requests] == [
        "/apis/apps/v1/namespaces/ns/deployments"
    ] * 2
    assert all(r.query["labelSelector"] == "finetune.dev/job=x" for r, _ in server.requests)


async def test_a_list_of_all_namespaces_has_no_namespace_in_its_path(
    kube: Kube, server: Server
) -> None:
    server.responds(200, {"items": []})
    assert await kube.list("Pod") == ()
    assert server.requests[0][0].path == "/api/v1/pods"


@pytest.mark.parametrize("text", ["<html>sign in</html>", "{}", "null", '{"kind": "Status"}'])
async def test_a_response_without_items_is_no_empty_list(
    kube: Kube, server: Server, text: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text)

    server.handler = handler
    with pytest.raises(Transient, match="not a list"):
        await kube.list("Pod", "ns")


async def test_a_limited_list_reads_one_page(kube: Kube, server: Server) -> None:
    server.responds(200, {"items": [{"metadata": {}}], "metadata": {"continue": "more"}})
    assert len(await kube.list("Event", "ns", fields="type=Warning", limit=5)) == 1
    (request, _), *_ = server.requests
    assert (request.query["limit"], request.query["fieldSelector"]) == ("5", "type=Warning")


async def test_apply_names_its_field_manager_and_forces_ownership(
    kube: Kube, server: Server
) -> None:
    server.responds(200, {"metadata": _identity()})
    await kube.apply(child("Service", "x"))
    request, body = server.requests[0]
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/a/services/x")
    assert dict(request.query) == {"fieldManager": "finetune-operator", "force": "true"}
    assert request.content_type == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "bearer secret"
    assert body == child("Service", "x")


async def test_a_delete_has_preconditions_and_a_propagation_policy(
    kube: Kube, server: Server
) -> None:
    await kube.delete({"kind": "Job", "metadata": _identity()}, propagation="Foreground")
    request, body = server.requests[0]
    assert (request.method, request.path) == ("DELETE", "/apis/batch/v1/namespaces/a/jobs/x")
    assert body == {
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
    }


async def test_a_status_is_replaced_in_the_version_that_was_read(
    kube: Kube, server: Server
) -> None:
    server.responds(200, {"metadata": _identity()})
    await kube.replace_status(job() | {"metadata": _identity()}, {"observedGeneration": 1})
    request, body = server.requests[0]
    path = "/apis/finetune.dev/v1alpha1/namespaces/a/finetunejobs/x/status"
    assert (request.method, request.path) == ("PUT", path)
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["status"] == {"observedGeneration": 1}


async def test_a_missing_crd_is_reported_with_the_remediation(kube: Kube, server: Server) -> None:
    server.responds(404, {"message": "not found"})
    command = "kubectl apply --server-side -f crds/finetune.dev_finetunebudgets.yaml"
    with pytest.raises(Terminal, match=re.escape(command)):
        await kube.require_crds()


def _identity() -> dict[str, str]:
    return {"name": "x", "namespace": "a", "uid": "u", "resourceVersion": "7"}


@pytest.mark.parametrize(
    "text",
    [
        "<html>sign in</html>",
        "{}",
        "null",
        '{"metadata": []}',
        '{"kind": "Status", "metadata": {}}',
    ],
)
@pytest.mark.parametrize("verb", ["get", "create", "apply", "merge", "scale", "replace_status"])
async def test_a_response_without_metadata_is_no_object(
    kube: Kube, server: Server, verb: str, text: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text)

    server.handler = handler
    metadata = {**_identity(), "namespace": "ns"}
    thing = child("Deployment", "x") | {"metadata": metadata, "spec": {}}
    requests: dict[str, Callable[[], Any]] = {
        "get": lambda: kube.get("Deployment", "ns", "x"),
        "create": lambda: kube.create(thing),
        "apply": lambda: kube.apply(thing),
        "merge": lambda: kube.merge(thing, {}),
        "scale": lambda: kube.scale(thing, 1),
        "replace_status": lambda: kube.replace_status(thing, {}),
    }
    with pytest.raises(Transient, match="not an object"):
        await requests[verb]()
