"""Attacks in a browser: by text of the cluster, and by pages of other sites."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect
from tests.page.conftest import Site, Visitor
from tests.support.browser.window import ATTACKER
from tests.support.example_page import Objects, session_of

from clidocs import example_cluster
from clidocs.example_objects import CORE, JOBS

EVIL = (
    "</pre></script><script>window.attacked = 1</script>"
    "<img src=x onerror='window.attacked = 1'><svg onload='window.attacked = 1'>"
    '"\'><a href="javascript:window.attacked = 1">click</a>'
)
ATTACKED = "window.attacked"
ELEMENTS = "main img, main a[href^='javascript:'], main script, svg[onload]"


@pytest.fixture
def objects(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Objects:
    """Return objects with an attack in an annotation, a dataset row, an event and a log line."""
    support = next(each for each in objects[JOBS] if each["metadata"]["name"] == "support")
    support["metadata"]["annotations"] = {"note": EVIL}
    support["status"]["conditions"][0]["message"] = f"row 7 of the dataset: {EVIL}"
    support["status"]["warnings"] = [EVIL]
    for event in objects[f"{CORE}/events"]:
        event["message"] = EVIL
    monkeypatch.setattr(example_cluster, "LOG", f"line 1: {EVIL}\n")
    return objects


def test_scripts_of_the_cluster_have_no_effect(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    for path, places in (
        ("jobs/team-a/support", ("#state", "#warnings", "#events", "#log")),
        ("jobs/team-a/support/yaml", ("pre",)),
    ):
        page.goto(f"{site.address}{path}")
        for place in places:
            expect(page.locator(place)).to_contain_text("<script>window.attacked")
        assert page.locator(ELEMENTS).count() == 0
        assert page.evaluate(ATTACKED) is None
    page.goto(f"{site.address}jobs/team-a/support")
    expect(page.locator("#connection")).to_have_text("live")
    message = f"row 8: {EVIL}"
    condition = {"type": "Ready", "status": "False", "reason": EVIL, "message": message}
    site.change(f"{JOBS}/support", {"status": {"conditions": [condition]}})
    expect(page.locator("#state")).to_contain_text("row 8: </pre>")
    assert page.locator(ELEMENTS).count() == 0
    assert page.evaluate(ATTACKED) is None
    assert visitor.problems == []


def test_policy_forbids_scripts_that_would_get_into_a_page(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    image = "<img src=x onerror='attacked = 1'>"
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", image)
    script = "document.createElement('script'), {text: 'attacked = 1'}"
    page.evaluate(f"document.body.append(Object.assign({script}))")
    page.wait_for_timeout(300)
    assert page.evaluate(ATTACKED) is None
    assert any("Content Security Policy" in each for each in visitor.problems)


def test_page_of_another_site_has_no_effect(site: Site, visitor: Visitor) -> None:
    """It posts a form, reads with the cookie, opens a stream, and shows the page in a frame."""
    page = visitor.log_in(site)
    session = session_of(site.application)
    with other_site(attack(site, session.csrf)) as port:
        for host in (f"{ATTACKER}:{port}", f"127.0.0.1:{port}"):
            page.goto(f"http://{host}/")
            expect(page.locator("#read")).to_have_text("refused")
            expect(page.locator("#stream")).to_have_text("refused")
            frame = page.frames[1]
            assert "velmora" not in frame.content()
            page.get_by_role("button").click()
            expect(page.locator("body")).to_contain_text("Another site has sent this request.")
    page.goto(site.address)
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_name_that_is_bound_to_this_machine_shows_nothing(site: Site, visitor: Visitor) -> None:
    page = visitor.log_in(site)
    page.goto(site.address.replace("127.0.0.1", ATTACKER))
    expect(page.locator("body")).to_contain_text("The host of this page is 127.0.0.1:")
    assert "velmora" not in page.content()
    page.goto(f"{site.address.replace('127.0.0.1', ATTACKER)}live/?tab=0123456789ab")
    expect(page.locator("body")).to_contain_text("The host of this page is 127.0.0.1:")


def attack(site: Site, csrf: str) -> bytes:
    """Return a page that attacks the site, also with its token, which no other site knows."""
    return f"""<!doctype html><title>attack</title><p id=read></p><p id=stream></p>
<iframe src="{site.address}"></iframe>
<form method=post action="{site.address}logout"><input type=hidden name=csrf value="{csrf}">
<button>Win</button></form><script>
fetch("{site.address}", {{credentials: "include"}}).then(a => a.text())
  .then(text => read.textContent = text, () => read.textContent = "refused");
const source = new EventSource("{site.address}live/?tab=0123456789ab", {{withCredentials: true}});
source.onopen = () => stream.textContent = "open";
source.onerror = () => stream.textContent = "refused";
</script>""".encode()


@contextmanager
def other_site(html: bytes) -> Iterator[int]:
    """Serve a page on another port, and yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Suppress the log."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(html)))
            self.end_headers()
            self.wfile.write(html)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
