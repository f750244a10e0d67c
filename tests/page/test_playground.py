"""A conversation with a served model, whose answers arrive part by part and are never markup."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Request, expect
from tests.page.conftest import Site, Visitor
from tests.support.example_page import Objects

from clidocs.example_objects import CORE
from finetune_cli.cluster import port_forward
from finetune_cli.ui import app

KEY = "sk-a-secret-key"
EVIL = "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"


class Model:
    """A model that answers in two parts, each of which waits until the test lets it go.

    The first one does not wait at the beginning.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.first, self.second = threading.Event(), threading.Event()
        self.first.set()
        self.port = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers["Content-Length"])
        self.requests.append(json.loads(handler.rfile.read(length)))
        self.keys.append(handler.headers["Authorization"])
        if self.keys[-1] != f"Bearer {KEY}":
            handler.send_response(401)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.end_headers()
        for text, begins in (("Press ", self.first), (f"the button. {EVIL}", self.second)):
            begins.wait(30)
            event = {"choices": [{"delta": {"content": text}}]}
            with suppress(ConnectionError):
                handler.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                handler.wfile.flush()
        with suppress(ConnectionError):
            handler.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """Return the model behind the port-forwards: the cluster of the examples has none."""
    made = Model()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Suppress the log."""

        def do_POST(self) -> None:
            made.answer(self)

    @contextmanager
    def connection(*arguments: Any, seconds: float) -> Iterator[HTTPConnection]:
        opened = HTTPConnection("127.0.0.1", made.port, timeout=seconds)
        opened.connect()
        try:
            yield opened
        finally:
            opened.close()

    monkeypatch.setattr(port_forward, "connection", connection)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield made
    finally:
        made.first.set()
        made.second.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def objects(objects: Objects) -> Objects:
    """Return objects in which the endpoint assistants needs a key, and has a pod that answers."""
    (endpoint,) = objects["/apis/finetune.dev/v1alpha1/finetuneendpoints"]
    endpoint["spec"]["access"] = {"keysSecretRef": {"name": "keys"}}
    labels = {"finetune.dev/endpoint": "assistants", "finetune.dev/stage": "serve-shared"}
    objects[f"{CORE}/pods"].append(
        {
            "metadata": {"name": "assistants-0", "namespace": "team-a", "labels": labels},
            "spec": {"containers": [{"name": "vllm"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    return objects


def test_answers_arrive_part_by_part(site: Site, visitor: Visitor, model: Model) -> None:
    page = visitor.log_in(site)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))
    page.goto(f"{site.address}endpoints/team-a/assistants")
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Model").select_option("orders-de")
    question = page.get_by_label("Question")
    question.fill("How?")
    question.press("Enter")
    expect(page.get_by_text("The endpoint rejects the API key")).to_be_visible()
    expect(question).to_have_value("How?")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Ask").click()
    answer = page.locator("#turns li.assistant div")
    expect(answer).to_have_text("Press ")
    model.second.set()
    expect(answer).to_contain_text("the button. <script>")
    expect(page.locator("#outcome")).to_contain_text("Answered in")
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.attacked") is None
    question.fill("And then?")
    question.press("Enter")
    expect(page.locator("#turns li")).to_have_count(4)
    expect(page.locator("#outcome")).to_contain_text("Answered in")
    roles = [each["role"] for each in model.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert model.requests[-1]["model"] == "orders-de"
    assert not [each.url for each in sent if KEY in each.url]
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
    page.reload()
    expect(page.get_by_label("API key")).to_have_value("")
    assert visitor.problems == []


def test_answer_is_stopped(site: Site, visitor: Visitor, model: Model) -> None:
    page = visitor.log_in(site)
    page.goto(f"{site.address}endpoints/team-a/assistants/playground")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("Question").fill("How?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#turns li.assistant div")).to_have_text("Press ")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#outcome")).to_have_text("You have stopped the answer.")
    expect(page.locator("#turns li")).to_have_count(2)


def test_another_conversation_begins_during_an_answer(
    site: Site, visitor: Visitor, model: Model
) -> None:
    page = visitor.log_in(site)
    page.goto(f"{site.address}endpoints/team-a/assistants/playground")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("Question").fill("How?")
    turns, outcome = page.locator("#turns li"), page.locator("#outcome")
    model.first.clear()
    for words in ("Waiting for the answer…", "The model answers…"):
        page.get_by_role("button", name="Ask").click()
        expect(outcome).to_have_text(words)
        page.get_by_role("button", name="Clear").click()
        expect(turns).to_have_count(0)
        expect(outcome).to_have_text("")
        model.first.set()
    model.second.set()
    page.get_by_role("button", name="Ask").click()
    expect(outcome).to_contain_text("Answered in")
    expect(turns).to_have_count(2)
    assert model.requests[-1]["messages"] == [{"role": "user", "content": "How?"}]
    assert visitor.problems == []


def test_conversation_that_is_too_long_is_refused_in_words(
    site: Site, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.log_in(site)
    page.goto(f"{site.address}endpoints/team-a/assistants/playground")
    monkeypatch.setattr(app, "LARGEST_QUESTION", 1000)
    page.get_by_label("Question").fill("x" * 2000)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#outcome")).to_have_text(
        "The conversation is too long: shorten it, or press Clear."
    )
