"""From the form to a chat answer in the page of the cluster, by two users of a real API server.

The rights are those of RBAC. A kubelet of the tests has the log and answers as the model; the
status is written as the operator writes it.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.fakes import kubelet, kubelet_server
from tests.page.conftest import POLL_SECONDS, in_thread
from tests.support.api_server import controlplane, limited_user
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace
from tests.support.browser import two_users
from tests.support.browser.two_users import CONCEALED, JOB, READ, TUNE, behind_proxy, logged_in

from finetune_cli.ui import live, pod
from finetune_cli.ui.access.users import Users

EVIL = "</pre><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
FIELDS = {"model.source": "hf://org/base-8b", "dataset.source": "hf://org/letters"}
LABELS = {
    "finetune.dev/job": JOB,
    "finetune.dev/stage": "serve",
    "finetune.dev/build": "0a1b2c3d",
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with controlplane.control_plane(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture
def address(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the page as in a pod, and return its address."""
    monkeypatch.setattr(live, "POLL_SECONDS", POLL_SECONDS)
    authority = plane.folder / "certificates" / "apiserver.crt"
    users = Users(pod.connection(plane.server, authority))
    with in_thread(lambda origin: pod.application([origin], users)) as (_, address):
        yield address


def answer(request: bytes) -> Iterator[bytes]:
    """Answer a question as vLLM does, with an attack."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    for words in ("Dear Tilda, ", EVIL):
        event = {"choices": [{"delta": {"content": words}}]}
        yield b"data: %s\n\n" % json.dumps(event).encode()
    yield b"data: [DONE]\n\n"


def test_two_users_with_different_rights(
    browser: Browser, plane: ControlPlane, address: str, tmp_path: Path
) -> None:
    letters, other = (
        Namespace(plane, plane.namespace(f"{name}-{uuid.uuid4().hex[:6]}"))
        for name in ("letters", "other")
    )
    tokens = [limited_user.token(letters, *TUNE), limited_user.token(other, *READ)]
    other.submit(CONCEALED, suspend=True)
    with ExitStack() as stack:
        alice = logged_in(browser, stack, address, tokens[0])
        bob = behind_proxy(browser, stack, address, tokens[1])
        two_users.create(alice.page, address, letters.name, FIELDS)
        node = stack.enter_context(kubelet_server.node(plane, {"vllm": EVIL.encode()}, answer))
        serve(letters, node)
        see(alice.page)
        two_users.ask(alice.page, address, letters.name, "Write a letter.")
        expect(alice.page.get_by_text("Dear Tilda,")).to_contain_text("<script>window.attacked")
        harmless(alice.page)
        assert other.name not in alice.page.content()

        two_users.kept_out(bob, alice, address, letters.name, other.name)
        for place, name in ((letters, JOB), (other, CONCEALED)):
            assert [job["metadata"]["name"] for job in place.items("finetunejobs")] == [name]

        account = f"/api/v1/namespaces/{letters.name}/serviceaccounts/user"
        two_users.logged_out(alice, address, letters.name, lambda: plane.delete(account))
        bob.page.goto(address)
        expect(bob.page.get_by_role("link", name=CONCEALED)).to_be_visible()
    assert alice.problems == []


def serve(place: Namespace, node: str) -> None:
    """Let the job serve, with attacks in a row of its dataset, an annotation and a log line."""
    path = place.path("finetunejobs", JOB)
    place.plane.merge(path, {"metadata": {"annotations": {"note": EVIL}}})
    condition: dict[str, Any] = {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "message": "The endpoint answers.",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-30T10:00:00Z",
    }
    status = {
        "observedGeneration": 1,
        "conditions": [condition],
        "warnings": [f"row 7 of the dataset: {EVIL}"],
        "serving": {"build": LABELS["finetune.dev/build"], "model": "letters"},
    }
    place.plane.merge(f"{path}/status", {"status": status})
    body = {
        "metadata": {"name": "letters-serve", "labels": LABELS},
        "spec": {"containers": [{"name": "vllm", "image": "a/b:1"}], "nodeName": node},
    }
    kubelet.report(place, place.plane.post(place.path("pods"), body), kubelet.serving())


def see(page: Page) -> None:
    """See the job, which the open page follows, and each attack as text."""
    expect(page.locator("#state")).to_contain_text("The endpoint answers.")
    page.reload()
    for place in ("#warnings", "#log"):
        expect(page.locator(place)).to_contain_text("<script>window.attacked")
    page.goto(f"{page.url}/yaml")
    expect(page.locator("pre")).to_contain_text("<script>window.attacked")
    harmless(page)


def harmless(page: Page) -> None:
    assert page.evaluate("window.attacked") is None
    assert page.locator("main script, main img, main [onerror]").count() == 0
