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
from tests.page.conftest import POLL_SECONDS, Visitor, in_thread
from tests.support.api_server import controlplane, limited_user
from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.namespace import Namespace

from finetune_cli.ui import live, pod
from finetune_cli.ui.access.users import Users

READ = (
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["list", "get"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["list", "get"]},
)
TUNE = (
    *READ,
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create", "get"]},
)
EVIL = "</pre><script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
LABELS = {
    "finetune.dev/job": "letters",
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


def logged_in(browser: Browser, stack: ExitStack, address: str, token: str) -> Visitor:
    visitor = Visitor(stack.enter_context(browser.new_context()))
    visitor.page.goto(address)
    visitor.page.get_by_label("Token").fill(token)
    visitor.page.keyboard.press("Enter")
    visitor.page.get_by_role("button", name="Log out").wait_for()
    return visitor


def test_two_users_with_different_rights(
    browser: Browser, plane: ControlPlane, address: str, tmp_path: Path
) -> None:
    letters, other = (
        Namespace(plane, plane.namespace(f"{name}-{uuid.uuid4().hex[:6]}"))
        for name in ("letters", "other")
    )
    tuner = limited_user.token(letters, *TUNE)
    reader = limited_user.token(other, *READ)
    other.submit("concealed", suspend=True)
    with ExitStack() as stack:
        alice = logged_in(browser, stack, address, tuner)
        create(alice.page, address, letters.name)
        node = stack.enter_context(kubelet_server.node(plane, {"vllm": EVIL.encode()}, answer))
        serve(letters, node)
        see(alice.page, letters.name)
        ask(alice.page, address, letters.name)
        assert other.name not in alice.page.content()

        bob = logged_in(browser, stack, address, reader)
        expect(bob.page.get_by_role("link", name="concealed")).to_be_visible()
        assert "letters" not in bob.page.locator("main").inner_text()
        for path in ("", "/yaml", "/playground"):
            bob.page.goto(f"{address}jobs/{letters.name}/letters{path}")
            expect(bob.page.get_by_role("heading", level=1)).to_have_text("Missing right")
            assert "Dear" not in bob.page.content()
        for visitor, place, csrf in (
            (bob, letters, csrf_of(bob.page)),
            (bob, other, csrf_of(alice.page)),
        ):
            assert refused(visitor.page, address, place.name, csrf) == 403
        for place, name in ((letters, "letters"), (other, "concealed")):
            assert [job["metadata"]["name"] for job in place.items("finetunejobs")] == [name]

        alice.page.goto(f"{address}jobs/{letters.name}/letters")
        expect(alice.page.locator("#connection")).to_have_text("live")
        plane.delete(f"/api/v1/namespaces/{letters.name}/serviceaccounts/user")
        expect(alice.page.locator("#connection")).to_contain_text("load the page again")
        alice.page.reload()
        expect(alice.page.get_by_label("Token")).to_be_visible()
        bob.page.goto(address)
        expect(bob.page.get_by_role("link", name="concealed")).to_be_visible()
    assert alice.problems == []


def create(page: Page, address: str, namespace: str) -> None:
    """Create the job from the form."""
    expect(page.get_by_text(f"Only the jobs of namespace {namespace} are listed")).to_be_visible()
    page.get_by_role("link", name="New job").click()
    for name, value in (
        ("name", "letters"),
        ("model.source", "hf://org/base-8b"),
        ("dataset.source", "hf://org/letters"),
    ):
        page.locator(f"input[name='{name}']").fill(value)
    page.get_by_role("button", name="Show manifest and plan").click()
    expect(page.locator("#plan")).to_contain_text("letters is created, and trained as revision")
    page.get_by_role("button", name="Create the job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("letters")
    assert page.url == f"{address}jobs/{namespace}/letters"


def serve(place: Namespace, node: str) -> None:
    """Let the job serve, with attacks in a row of its dataset, an annotation and a log line."""
    path = place.path("finetunejobs", "letters")
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


def see(page: Page, namespace: str) -> None:
    """See the job, which the open page follows, and each attack as text."""
    expect(page.locator("#state")).to_contain_text("The endpoint answers.")
    page.reload()
    for place in ("#warnings", "#log"):
        expect(page.locator(place)).to_contain_text("<script>window.attacked")
    page.goto(f"{page.url}/yaml")
    expect(page.locator("pre")).to_contain_text("<script>window.attacked")
    harmless(page)


def ask(page: Page, address: str, namespace: str) -> None:
    """Ask the model through the port-forward of the user."""
    page.goto(f"{address}jobs/{namespace}/letters/playground")
    page.get_by_label("Question").fill("Write a letter.")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Dear Tilda,")).to_contain_text("<script>window.attacked")
    harmless(page)


def harmless(page: Page) -> None:
    assert page.evaluate("window.attacked") is None
    assert page.locator("main script, main img, main [onerror]").count() == 0


def csrf_of(page: Page) -> str:
    return page.locator("header input[name=csrf]").get_attribute("value") or ""


def refused(page: Page, address: str, namespace: str, csrf: str) -> int:
    """Create a job as a page of the site does, past its form; return the status."""
    form: dict[str, str | float | bool] = {
        "csrf": csrf,
        "name": "intruder",
        "namespace": namespace,
        "model.source": "hf://org/base-8b",
        "dataset.source": "hf://org/letters",
    }
    headers = {"Origin": address.removesuffix("/")}
    return page.request.post(f"{address}new/create", form=form, headers=headers).status
