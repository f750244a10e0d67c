"""Attacks on the pages: by other sites, other users of the machine, and text from the cluster."""

import asyncio
import itertools
import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import unused_port
from tests.support.example_page import ALL_JOBS, PREFIX, Objects
from tests.unit.cli.ui.conftest import Pages, Start
from yarl import URL

from clidocs import example_cluster
from clidocs.example_jobs import EARLIER, PRESENT
from clidocs.example_objects import CORE, JOBS
from finetune_cli.cluster.api import Cluster, Forbidden
from finetune_cli.ui import live
from finetune_cli.ui.access import guard
from finetune_cli.ui.access.one_user import MOST_WRONG_CODES, OneUser
from finetune_cli.ui.access.sessions import SESSION_SECONDS, Session, Sessions
from finetune_cli.ui.access.streams import MOST_STREAMS
from finetune_cli.ui.app import LARGEST_FORM
from finetune_cli.ui.views import DOWNLOADS, QUESTIONS, VIEWS
from finetune_cli.ui.views import FORMS as SENT

TAB = "?tab=0123456789ab"
JOB, ENDPOINT = "/jobs/team-a/velmora", "/endpoints/team-a/assistants"
PUBLIC = ("/login", "/static/ui.css", "/static/ui.js", "/static/playground.js", "/static/icon.svg")


def address(pattern: str) -> str:
    """Return an address of a pattern: of the job velmora, or of the endpoint assistants."""
    place = ENDPOINT if pattern.startswith("/endpoints") else JOB
    return f"{place}{pattern.rpartition('}')[2]}" if "{" in pattern else pattern


VIEWED = [address(each.pattern) for each in VIEWS]
FOLLOWED = [f"/live{address(each.pattern)}{TAB}" for each in VIEWS if each.live]
FILES = [address(each.pattern) for each in DOWNLOADS]
PRIVATE = [*VIEWED, *FOLLOWED, *FILES]
ASKED = [address(each.pattern) for each in (*QUESTIONS, *SENT)]
FORMS = ("/login", "/logout", *ASKED)


def assert_protected(answer: ClientResponse) -> None:
    for name, value in guard.HEADERS.items():
        assert answer.headers.getall(name) == [value]
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "Access-Control-Allow-Origin" not in answer.headers
    # With no-referrer, browsers send the header "Origin: null" with the forms of this page.
    assert answer.headers["Referrer-Policy"] == "same-origin"


def test_lists_of_addresses_are_complete() -> None:
    assert f"{JOB}/diff" in VIEWED
    assert len(FOLLOWED) == 5
    assert len(ASKED) == 4
    assert len(FILES) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "127.0.0.1:1"},
        {"Host": "127.0.0.1"},
        {"Host": "localhost:{port}"},
        {"Host": "127.0.0.1.attacker.example:{port}"},
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
async def test_request_of_another_site_is_refused(start: Start, headers: dict[str, str]) -> None:
    pages = await start()
    sent = {name: value.format(port=pages.port) for name, value in headers.items()}
    for path in (*PRIVATE, *PUBLIC):
        answer = await pages.get(path, headers=sent)
        text = await answer.text()
        assert answer.status == 403, path
        assert PREFIX not in text
        assert "velmora" not in text
        assert_protected(answer)


async def test_second_host_header_is_refused(start: Start) -> None:
    pages = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
    hosts = f"Host: {pages.host}\r\nHost: attacker.example\r\n"
    writer.write(f"GET {PREFIX}/login HTTP/1.1\r\n{hosts}\r\n".encode())
    status = await reader.readline()
    assert status.split()[1] in (b"400", b"403")
    writer.close()
    await writer.wait_closed()


async def test_own_requests_of_a_browser_are_answered(start: Start) -> None:
    pages = await start()
    for site in ("none", "same-origin"):
        assert (await pages.get("/", headers={"Sec-Fetch-Site": site})).status == 200


async def test_without_a_cookie_there_is_only_the_login(start: Start) -> None:
    pages = await start(login=False)
    name = pages.application.cookie
    forged: tuple[dict[str, str], ...] = (
        {},
        {name: "forged"},
        {name: pages.code},
    )
    for path, cookies in itertools.product(PRIVATE, forged):
        answer = await pages.get(path, cookies=cookies)
        text = await answer.text()
        assert answer.status == 401, path
        assert "One-time code" in text
        for secret in ("team-a", "demo", "csrf"):
            assert secret not in text
        assert_protected(answer)


async def test_other_users_of_the_machine_do_not_learn_the_path(start: Start) -> None:
    pages = await start()
    for path in ("/", "/static/ui.css", "/login", "/../", "/a-random-pat/"):
        answer = await pages.browser.get(path, allow_redirects=False)
        text = await answer.text()
        assert answer.status == 404, path
        assert PREFIX not in text + str(answer.headers)
        assert_protected(answer)


async def test_code_is_valid_once(start: Start) -> None:
    pages = await start(login=False)
    code = pages.code
    assert len(code.replace("-", "")) == 24
    assert (await pages.post("/login", {"code": f" {code.lower()} "})).status == 303
    async with ClientSession() as other:
        url = f"http://{pages.host}{PREFIX}"
        origin = {"Origin": f"http://{pages.host}"}
        answer = await other.post(f"{url}/login", data={"code": code}, headers=origin)
        assert answer.status == 401
        assert "used already" in await answer.text()
        assert (await other.get(f"{url}/")).status == 401
    assert (await pages.get("/")).status == 200


async def test_many_wrong_codes_void_the_code() -> None:
    user = OneUser(mock.Mock())
    for _ in range(MOST_WRONG_CODES):
        assert await user.log_in("AAAA") is None
    assert await user.log_in(user.code) is None


def test_session_ends() -> None:
    time = [0.0]
    sessions = Sessions(lambda: time[0])
    session = Session(user="context demo", cluster=mock.Mock(), ends=SESSION_SECONDS)
    sessions.begin("cookie", session)
    assert sessions.find("cookie") is session
    stopped = session.streams.begin("tab")
    assert stopped is not None
    time[0] = SESSION_SECONDS
    assert not sessions.valid(session)
    assert sessions.find("cookie") is None
    assert stopped.is_set()


async def test_cookie_is_kept_from_scripts_other_sites_and_other_servers(start: Start) -> None:
    pages = await start(login=False)
    answer = await pages.post("/login", {"code": pages.code})
    cookie = answer.cookies[pages.application.cookie]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == f"{PREFIX}/", "a server on another port does not get it"
    assert not cookie["domain"]
    assert answer.headers["Location"] == f"{PREFIX}/"
    assert cookie.value not in answer.headers["Location"] + await answer.text()


async def test_cookie_of_another_process_is_worth_nothing(start: Start) -> None:
    first, second = await start(), await start(login=False)
    names = (first.application.cookie, second.application.cookie)
    assert names[0] != names[1], "a server of another user cannot set a cookie of the same name"
    (value,) = [each.value for each in first.browser.session.cookie_jar if each.key == names[0]]
    cookies = dict.fromkeys(names, value)
    assert (await second.get("/", cookies=cookies)).status == 401


async def test_form_without_its_token_is_refused(start: Start) -> None:
    pages = await start()
    for path in ASKED:
        assert (await pages.post(path, {"csrf": "forged", "model": "x"})).status == 403
    forged: tuple[dict[str, str], ...] = ({}, {"csrf": ""}, {"csrf": "forged"}, {"csrf": "ümlaut"})
    for data in forged:
        answer = await pages.post("/logout", data)
        assert answer.status == 403, data
        assert_protected(answer)
        assert (await pages.get("/")).status == 200


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("origin", [None, "null", "https://attacker.example", "http://127.0.0.1:1"])
async def test_form_of_another_site_is_refused(start: Start, path: str, origin: str | None) -> None:
    pages = await start(login=path != "/login")
    data = {"code": pages.code} if path == "/login" else {"csrf": token(pages)}
    answer = await pages.post(path, data, origin=origin)
    assert answer.status == 403
    assert_protected(answer)
    if path == "/login":
        assert (await pages.post("/login", data)).status == 303, "the code was not used"
    else:
        assert (await pages.get("/")).status == 200


def token(pages: Pages) -> str:
    return pages.session.csrf


async def test_logout_ends_session_and_streams(start: Start) -> None:
    pages = await start()
    stream = await pages.get(FOLLOWED[0])
    assert (await pages.post("/logout", {"csrf": token(pages)})).status == 401
    assert (await pages.get("/")).status == 401
    assert b"event: end" in await asyncio.wait_for(stream.read(), 10)


async def test_every_answer_has_the_headers(start: Start) -> None:
    pages = await start()
    for path in (*VIEWED, *FILES, *PUBLIC, "/jobs/team-a/absent", "/nothing", "/static/app.py"):
        assert_protected(await pages.get(path))
    for path in FOLLOWED:
        stream = await pages.get(path)
        assert stream.status == 200
        assert_protected(stream)
        stream.close()
    for method in ("PUT", "DELETE", "TRACE", "OPTIONS"):
        origin = {"Origin": f"http://{pages.host}"}
        answer = await pages.browser.request(method, f"{PREFIX}/", headers=origin)
        assert answer.status >= 400
        assert_protected(answer)


async def test_large_form_is_refused(start: Start) -> None:
    pages = await start(login=False)
    answer = await pages.post("/login", {"code": "A" * (LARGEST_FORM + 1)})
    assert answer.status == 413
    assert_protected(answer)


async def test_names_lead_to_no_other_path(start: Start) -> None:
    pages = await start()
    for path in (
        "/jobs/team-a/..%2f..%2fsecrets",
        "/jobs/%2e%2e/velmora",
        "/jobs/team-a/%2e%2e",
        "/jobs/team-a/velmora%2flog",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2fapp.py",
    ):
        url = URL(f"http://{pages.host}{PREFIX}{path}", encoded=True)
        answer = await pages.browser.session.get(url)
        assert answer.status == 404, path


async def test_namespace_of_a_filter_leads_to_no_other_path(start: Start) -> None:
    text = await (await start()).text("/?namespace=../../secrets", 400)
    assert "is not the name of a namespace" in text


async def test_nothing_is_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    pages = await start()
    for path in (*VIEWED, "/nothing"):
        await pages.get(path)
    await pages.get("/", headers={"Host": "attacker.example"})
    said = capfd.readouterr()
    assert said.out + said.err == ""


async def test_bug_shows_no_text_of_its_error(
    start: Start, capfd: pytest.CaptureFixture[str], cluster: Callable[[], Cluster]
) -> None:
    class Broken(Cluster):
        def table(self, path: str, **query: Any) -> dict[str, Any]:
            raise ValueError("a secret")

    text = await (await start(user=changed(Broken, cluster()))).text("/", 500)
    assert "secret" not in text
    assert "Unexpected ValueError" in text
    assert "ftj ui: unexpected ValueError" in capfd.readouterr().err


async def test_bug_ends_a_stream_with_its_type_alone(
    start: Start,
    capfd: pytest.CaptureFixture[str],
    cluster: Callable[[], Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Cluster):
        reads = 0

        def table(self, path: str, **query: Any) -> dict[str, Any]:
            Broken.reads += 1
            if Broken.reads > 1:
                raise BrokenPipeError("a secret")
            return super().table(path, **query)

    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    stream = await (await start(user=changed(Broken, cluster()))).get(f"/live/{TAB}")
    text = (await asyncio.wait_for(stream.read(), 10)).decode()
    assert "event: region" in text
    assert "HTTP/1.1" not in text
    assert "secret" not in text
    problem = 'event: problem\ndata: "Unexpected BrokenPipeError.'
    assert problem in text
    assert text.endswith('event: end\ndata: ""\n\n')
    assert "ftj ui: unexpected BrokenPipeError" in capfd.readouterr().err


def changed(kind: type[Cluster], cluster: Cluster) -> Cluster:
    return kind(api=cluster.api, namespace=cluster.namespace, context=cluster.context)


def without(*resources: str) -> type[Cluster]:
    """Return a cluster whose user has no right on some resources."""

    class Limited(Cluster):
        def _opened(self, method: str, path: str, *more: Any, **options: Any) -> Any:
            names = path.partition("?")[0].split("/")
            if any(each in names for each in resources):
                raise Forbidden("the API server <b>says no</b>")
            return super()._opened(method, path, *more, **options)

    return Limited


async def test_missing_right_is_named(start: Start, cluster: Callable[[], Cluster]) -> None:
    pages = await start(user=changed(without("finetunejobs"), cluster()))
    text = await pages.text("/?namespace=team-b", 403)
    for words in (
        "You may not list finetunejobs.finetune.dev in namespace team-b.",
        "<dt>Verb</dt><dd>list</dd>",
        "<dt>Namespace</dt><dd>team-b</dd>",
        "kubectl auth can-i list finetunejobs.finetune.dev -n team-b",
        "says no&lt;/b&gt;",
    ):
        assert words in text


async def test_list_falls_back_to_the_namespace_of_the_context(
    start: Start, cluster: Callable[[], Cluster], objects: Objects
) -> None:
    user = cluster()

    class Limited(Cluster):
        def table(self, path: str, **query: Any) -> dict[str, Any]:
            if path == ALL_JOBS:
                raise Forbidden("no")
            return super().table(path, **query)

    text = await (await start(user=changed(Limited, user))).text("/")
    assert "Only the jobs of namespace team-a are listed" in text
    assert "/jobs/team-a/velmora" in text


async def test_missing_rights_leave_out_parts_of_a_page(
    start: Start, cluster: Callable[[], Cluster]
) -> None:
    user = changed(without("pods", "jobs", "events", "log", "configmaps"), cluster())
    pages = await start(user=user)
    text = await pages.text("/jobs/team-a/support")
    assert "CUDAOutOfMemory" in text
    assert text.count("You may not list pods in namespace team-a.") == 2
    assert "You may not list events in namespace team-a." in text
    text = await pages.text(f"{JOB}/diff?first={EARLIER}&second={PRESENT}")
    assert "You may not get configmaps" in text


EVIL = "</pre></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[31m"
KEPT = ("uid", "type", "stage", "outcome", "reason", "revision", "build", "jobDigest", "series")
"""Values by which the pages find what they show."""


def poisoned(value: Any) -> Any:
    """Return a value with an attack in each of its texts."""
    if isinstance(value, dict):
        return {
            name: each
            if name in ("metadata", "involvedObject") or (name in KEPT and isinstance(each, str))
            else poisoned(each)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


ALLOWED = [
    "html",
    "head",
    "meta",
    "title",
    "link",
    "script",
    "body",
    "a",
    "header",
    "img",
    "small",
    "textarea",
    "ol",
    "strong",
    "span",
    "nav",
    "ul",
    "li",
    "form",
    "input",
    "button",
    "main",
    "h1",
    "h2",
    "h3",
    "p",
    "section",
    "label",
    "select",
    "option",
    "div",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "dl",
    "dt",
    "dd",
    "code",
    "pre",
    "svg",
    "rect",
    "line",
    "text",
    "polyline",
    "circle",
    "figure",
    "figcaption",
    "details",
    "summary",
]


SCRIPTS = [f"{PREFIX}/static/{name}" for name in ("ui.js", "playground.js")]


class Attacks(HTMLParser):
    """Markup that runs something, or leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALLOWED:
            self.found.append(tag)
        self.scripts += tag == "script" and dict(attrs).get("src") not in SCRIPTS
        for name, value in attrs:
            address = name in ("href", "src", "action", "data-stream")
            if name.startswith("on") or name in ("style", "srcdoc"):
                self.found.append(name)
            if address and not (value or "").startswith((f"{PREFIX}/", "#content")):
                self.found.append(f"{name}={value}")


async def test_text_of_the_cluster_is_never_markup(
    start: Start, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, items in objects.items():
        objects[path][:] = [poisoned(each) for each in items]
    for each in objects[JOBS]:
        each["metadata"]["annotations"] = {"note": EVIL}
        each["status"]["warnings"] = [EVIL]
        each["status"]["progress"] = EVIL
        each["status"]["conditions"][0]["reason"] = EVIL
        each["status"]["verification"] = dict.fromkeys(("outcome", "pod", "distance"), EVIL)
        each["status"]["evaluation"] = {"outcome": EVIL, "message": EVIL}
        for revision in each["status"]["revisions"]:
            revision["stages"][-1] |= {"reason": EVIL, "outcome": EVIL}
    for each in objects[f"{CORE}/events"]:
        each["message"] = each["reason"] = each["type"] = EVIL
    monkeypatch.setattr(example_cluster, "LOG", f"row 7: {EVIL}\n" * 3)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    pages = await start()
    diff = f"{JOB}/diff?first={EARLIER}&second={PRESENT}"
    paths = (*VIEWED, "/jobs/team-a/support", "/jobs/team-a/billing", diff)
    for path in paths:
        answer = await pages.get(path)
        text = await answer.text()
        attacks = Attacks(text)
        assert (attacks.found, attacks.scripts) == ([], 0), path
        assert "\u202e" not in text
        assert "\x1b" not in text
        if path not in (f"{JOB}/diff", f"{JOB}/playground", f"{ENDPOINT}/playground", "/new"):
            assert "&lt;script&gt;alert(1)" in text, path
    log = await pages.text("/jobs/team-a/support")
    assert "row 7: &lt;/pre&gt;" in log
    for path in (*FOLLOWED, f"/live/jobs/team-a/support{TAB}"):
        stream = await pages.get(path)
        html = await first_regions(stream)
        attacks = Attacks(html)
        assert (attacks.found, attacks.scripts) == ([], 0), path
        assert "&lt;script&gt;alert(1)" in html
        stream.close()


async def test_text_of_a_request_is_never_markup(start: Start) -> None:
    pages = await start()
    for path in (f"/?text={'%22%3E%3Cscript%3E'}", f"{JOB}/diff?first=%3Cscript%3E&second=x"):
        answer = await pages.get(path)
        attacks = Attacks(await answer.text())
        assert (attacks.found, attacks.scripts) == ([], 0)


async def first_regions(stream: ClientResponse) -> str:
    """Return the HTML of the regions that a stream sends first."""
    html = []
    while True:
        line = (await asyncio.wait_for(stream.content.readline(), 10)).decode()
        if line.startswith("data: {"):
            html.append(json.loads(line.removeprefix("data: "))["html"])
        elif html and line == ":\n":
            return "".join(html)


async def test_stream_sends_what_changes_and_nothing_else(
    start: Start, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    pages = await start()
    stream = await pages.get(f"/live/jobs/team-a/velmora{TAB}")
    assert stream.content_type == "text/event-stream"
    first = await first_regions(stream)
    assert "2.4103" in first
    for _ in range(6):
        assert (await stream.content.readline()).strip() in (b"", b":"), "nothing has changed"
    stream.close()


async def test_one_stream_per_tab_and_five_per_user(start: Start) -> None:
    pages = await start()
    streams = [await pages.get(f"/live/?tab=tab-number-{at}") for at in range(MOST_STREAMS)]
    assert [each.status for each in streams] == [200] * MOST_STREAMS
    assert (await pages.get("/live/?tab=tab-number-9")).status == 429
    again = await pages.get("/live/?tab=tab-number-0")
    assert again.status == 200
    assert b"event: end" in await asyncio.wait_for(streams[0].read(), 10)
    assert (await pages.get("/live/?tab=tab-number-9")).status == 429
    assert (await pages.get("/live/?tab=x")).status == 400
    for each in (*streams, again):
        each.close()


async def test_stream_of_a_browser_that_is_gone_makes_room(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    pages = await start()
    for at in range(3 * MOST_STREAMS):
        for _ in range(100):
            stream = await pages.get(f"/live/?tab=tab-number-{at}")
            if stream.status == 200:
                break
            await asyncio.sleep(0.05)
        assert stream.status == 200
        stream.close()


async def test_another_port_of_the_machine_gets_no_cookie(start: Start) -> None:
    pages = await start()
    jar = pages.browser.session.cookie_jar
    assert jar.filter_cookies(URL(f"http://127.0.0.1:{pages.port}{PREFIX}/"))
    assert not jar.filter_cookies(URL(f"http://127.0.0.1:{unused_port()}/"))
