"""``ftj`` on a job whose model a FineTuneEndpoint serves, against a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fakes import kubelet, kubelet_server
from tests.integration.test_endpoints import create
from tests.integration.test_ftj import Run, post_pod
from tests.integration.test_ftj import run as run
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace

pytestmark = pytest.mark.usefixtures("controller_manager")

SHARED = {"serving": {"mode": "shared", "endpointRef": {"name": "shared"}}}
MODEL = {
    "endpoint": "shared",
    "endpointUID": "uid",
    "names": ["helper", "assistant"],
    "revision": "a" * 64,
    "adapter": "b" * 64,
    "path": "demo/1",
}


def test_the_model_of_an_endpoint_is_shown_and_asked(
    control_plane: ControlPlane, place: Namespace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bytes]] = []

    def endpoint(request: bytes) -> Iterator[bytes]:
        head, _, body = request.partition(b"\r\n\r\n")
        model = json.loads(body)["model"]
        asked.append((model, head))
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        event = {"choices": [{"delta": {"content": f"{model} says hi"}}]}
        yield f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode()

    def serve(name: str, model: dict[str, Any] | None = None) -> None:
        place.submit(name, spec=SHARED)
        serving = {"build": "b1", "revision": "0a1b2c3d", "summary": "0a1b2c3d", "model": name}
        status = {"observedGeneration": 1, "serving": serving, "sharedModel": model}
        place.plane.merge(f"{place.path('finetunejobs', name)}/status", {"status": status})

    create(place, access={"keysSecretRef": {"name": "keys"}})
    serve("demo", MODEL)
    serve("other", {**MODEL, "names": ["other"]})
    code, text, _ = run("status", "demo")
    assert (code, "0a1b2c3d" in text) == (0, True)
    monkeypatch.setenv("FTJ_API_KEY", "")
    with kubelet_server.node(control_plane, {}, endpoint) as node:
        code, _, err = run("chat", "demo", "Hi")
        assert code == 1
        assert "no pod of FineTuneJob demo, nor one of FineTuneEndpoint shared, answers" in err
        pod = post_pod(place, "shared-serve", "serve-shared", node)
        labels = {"finetune.dev/endpoint": "shared", "finetune.dev/job": None}
        place.plane.merge(place.path("pods", "shared-serve"), {"metadata": {"labels": labels}})
        assert run("chat", "demo", "Hi")[0] == 1, "the pod is not ready"
        kubelet.report(place, pod, kubelet.serving())
        code, _, err = run("chat", "demo", "Hi")
        assert (code, "the endpoint of FineTuneJob demo needs a key" in err) == (1, True)
        monkeypatch.setenv("FTJ_API_KEY", "own")
        assert run("chat", "demo", "Hi")[:2] == (0, "helper says hi\n")
        assert b"Authorization: Bearer own" in asked[0][1]
        code, text, _ = run("compare", "demo", "other@0a1b2c3d", "-m", "Hi", "-o", "json")
        (result,) = json.loads(text)["results"]
        assert result["answers"] == ["helper says hi", "other says hi"]
        code, text, _ = run("compare", "demo", "demo-base", "-m", "Hi", "-o", "json")
        (result,) = json.loads(text)["results"]
        assert result["answers"] == ["helper says hi", "helper-base says hi"]
