"""The verbs against an HTTP server: what they send, and what they make of the answers."""

import pytest
from aiohttp import web
from tests.fakes.kube_client import child, job
from tests.unit.operator.conftest import Server

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Terminal
from finetune_operator.kube.transport import Transport


@pytest.fixture
def kube(transport: Transport) -> Kube:
    return Kube(transport)


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
