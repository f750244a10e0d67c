"""The page in the cluster: each user has their own rights, by an injected or by a pasted token."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from aiohttp import ClientResponse, DummyCookieJar
from aiohttp.test_utils import TestClient, TestServer, unused_port
from tests.support import page_users
from tests.support.example_page import Objects
from tests.support.page_users import Directory

from clidocs.example_objects import JOBS
from finetune_cli.cluster.api import Cluster
from finetune_cli.errors import CommandFailed, WrongCall
from finetune_cli.ui import live, pod
from finetune_cli.ui.access import tokens, users
from finetune_cli.ui.access.streams import MOST_STREAMS
from finetune_cli.ui.access.users import MOST_SESSIONS, Users

ALICE, BOB = "token-of-alice", "token-of-bob"
JOB = "/jobs/team-a/velmora"
SECONDS = 120.0
"""Limit of a wait, which an event ends: for a machine on which other suites run, too."""
STREAM = f"/live{JOB}?tab=0123456789ab"
LINK = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


@pytest.fixture
def directory() -> Directory:
    """Return users of whom bob may read another namespace than that of the jobs."""
    return Directory(users={ALICE: "alice", BOB: "bob"}, namespaces={"bob": "team-b"})


@pytest.fixture
def connect(objects: Objects, directory: Directory) -> Iterator[Callable[[str], Cluster]]:
    objects[JOBS.replace("team-a", "team-b")] = []
    with page_users.serving(objects, directory) as connect:
        yield connect


class Shared:
    """A server of the page, and requests of its users without a jar for cookies."""

    def __init__(self, users: Users, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.users = users
        self.application = pod.application([self.origin], users)
        server = TestServer(self.application.build(), host="127.0.0.1", port=port)
        self.client = TestClient(server, cookie_jar=DummyCookieJar())

    async def get(
        self, path: str, *, token: str = "", cookie: str = "", **more: str
    ) -> ClientResponse:
        return await self._send("GET", path, token, cookie, more, None)

    async def post(
        self, path: str, data: dict[str, str], *, token: str = "", cookie: str = "", **more: str
    ) -> ClientResponse:
        return await self._send("POST", path, token, cookie, {"Origin": self.origin, **more}, data)

    async def _send(
        self,
        method: str,
        path: str,
        token: str,
        cookie: str,
        headers: dict[str, str],
        data: dict[str, str] | None,
    ) -> ClientResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {token}"} if token else {}
        sent |= {"Cookie": f"{self.application.cookie}={cookie}"} if cookie else {}
        return await self.client.request(
            method, path, headers=sent, data=data, allow_redirects=False
        )

    async def text(
        self, path: str, status: int = 200, *, token: str = "", cookie: str = "", **more: str
    ) -> str:
        answer = await self.get(path, token=token, cookie=cookie, **more)
        text = await answer.text()
        assert answer.status == status, text
        return text

    async def logged_in(self, token: str) -> str:
        """Paste a token, and return the cookie."""
        answer = await self.post("/login", {"token": token})
        assert answer.status == 303, await answer.text()
        cookie = answer.cookies[self.application.cookie]
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        return cookie.value

    async def form_token(self, *, token: str = "", cookie: str = "") -> str:
        text = await self.text(JOB, token=token, cookie=cookie)
        found = re.search(r'name="csrf" value="([^"]+)"', text)
        assert found is not None
        return found[1]


Start = Callable[..., Awaitable[Shared]]


@pytest.fixture
async def start(
    connect: Callable[[str], Cluster], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    monkeypatch.setattr(live, "POLL_SECONDS", 0.05)
    servers: list[Shared] = []

    async def begin(**clock: Callable[[], float]) -> Shared:
        shared = Shared(Users(connect, **clock), unused_port())
        await shared.client.start_server()
        servers.append(shared)
        return shared

    yield begin
    for shared in servers:
        await shared.client.close()


async def test_user_pastes_a_token(
    start: Start, directory: Directory, capfd: pytest.CaptureFixture[str]
) -> None:
    page = await start()
    form = await page.text("/", 401)
    assert 'name="token" type="password"' in form
    assert "velmora" not in form
    assert directory.requests == []
    cookie = await page.logged_in(f" {ALICE}\n")
    text = await page.text(JOB, cookie=cookie)
    assert "user alice" in text
    assert "Log out" in text
    assert directory.tokens_of("") == {ALICE}
    csrf = await page.form_token(cookie=cookie)
    assert (await page.post("/logout", {"csrf": csrf}, cookie=cookie)).status == 401
    await page.text(JOB, 401, cookie=cookie)
    said = capfd.readouterr()
    assert ALICE not in text + said.out + said.err


@pytest.mark.parametrize("forged", ["forged", f"{ALICE}x", "", "a b", f"{ALICE}\r\nHost: x", "ü"])
async def test_forged_token_shows_nothing(start: Start, directory: Directory, forged: str) -> None:
    page = await start()
    answer = await page.post("/login", {"token": forged})
    text = await answer.text()
    assert (answer.status, answer.cookies) == (401, {})
    assert "The API server rejects this token" in text
    if tokens.parsed(forged):
        text = await page.text(JOB, 401, token=forged)
        assert "The API server rejects the token that the proxy" in text
        assert directory.tokens_of("") == {forged}
    else:
        assert directory.requests == []
    assert "velmora" not in text


async def test_proxy_injects_the_token_of_each_user(start: Start, directory: Directory) -> None:
    page = await start()
    text = await page.text(JOB, token=ALICE)
    assert "user alice" in text
    assert "Log out" not in text, "the proxy would log in again"
    denied = await page.text(JOB, 403, token=BOB)
    assert "You may not get finetunejobs.finetune.dev in namespace team-a." in denied
    assert directory.tokens_of("/team-a/") == {ALICE, BOB}
    assert (await page.text("/", 403, token=BOB)).count('name="namespace"') == 1
    assert "There is no FineTuneJob." in await page.text("/?namespace=team-b", token=BOB)


async def test_injected_token_is_asked_about_once_and_may_be_renewed(
    start: Start, directory: Directory
) -> None:
    page = await start()
    before = await page.form_token(token=ALICE)
    await page.text("/", token=ALICE)
    reviews = [path for _, path in directory.requests if path == users.REVIEWS]
    assert len(reviews) == 1
    directory.users["renewed"] = "alice"
    assert await page.form_token(token="renewed") == before, "a form that is open stays valid"
    assert await page.form_token(token=ALICE) == before
    directory.users[BOB] = "bob"
    directory.namespaces.clear()
    assert await page.form_token(token=BOB) != before


async def test_cookie_or_form_of_another_user_gives_no_rights(start: Start) -> None:
    page = await start()
    alice, bob = await page.logged_in(ALICE), await page.logged_in(BOB)
    await page.text(JOB, 403, cookie=bob)
    await page.text(JOB, 401, cookie=f"{alice}x")
    await page.text(JOB, 403, cookie=alice, token=BOB)
    form = {"csrf": await page.form_token(cookie=alice), "name": "x"}
    for path in ("/new", "/new/create", f"{JOB}/ask", "/logout"):
        assert (await page.post(path, form, cookie=bob)).status == 403
        assert (await page.post(path, form, token=BOB)).status == 403
    await page.text(JOB, cookie=alice)


async def test_other_site_neither_posts_nor_reads_with_the_token_of_the_proxy(
    start: Start,
) -> None:
    page = await start()
    form = {"csrf": await page.form_token(token=ALICE)}
    for origin in ("https://attacker.example", "null", page.origin.replace("http:", "https:")):
        assert (await page.post("/logout", form, token=ALICE, Origin=origin)).status == 403
        assert (await page.post("/login", {"token": ALICE}, Origin=origin)).status == 403
    for host in ("attacker.example", "127.0.0.1"):
        answer = await page.get(JOB, token=ALICE, Host=host)
        assert answer.status == 403
        assert "velmora" not in await answer.text()
    for part in ({"Sec-Fetch-Mode": "cors"}, {"Sec-Fetch-Dest": "iframe"}):
        for path in (JOB, STREAM):
            assert (await page.get(path, token=ALICE, **(LINK | part))).status == 403
    assert (await page.post("/logout", form, token=ALICE, **LINK, Origin="null")).status == 403


async def test_link_of_another_site_opens_a_page(start: Start) -> None:
    """A login at an identity provider ends with a redirect to the page."""
    page = await start()
    await page.text(JOB, 200, token=ALICE, **LINK)


async def test_stream_ends_when_its_token_does(start: Start, directory: Directory) -> None:
    now = [0.0]
    page = await start(now=lambda: now[0])
    token = page_users.expiring("alice", 60)
    directory.users[token] = "alice"
    cookie = await page.logged_in(token)
    streams = [
        await page.get(STREAM, token=token),
        await page.get("/live/?tab=abcdefgh", cookie=cookie),
    ]
    assert [stream.status for stream in streams] == [200, 200]
    for stream in streams:
        await asyncio.wait_for(stream.content.readuntil(b"event: region"), SECONDS)
    now[0] = 59
    await page.text(JOB, cookie=cookie)
    now[0] = 61
    for stream in streams:
        text = await asyncio.wait_for(stream.text(), SECONDS)
        assert "event: end" not in text, "a browser connects again, with another token"
    await page.text(JOB, 401, cookie=cookie)


async def test_stream_ends_when_the_api_server_rejects_its_token(
    start: Start, directory: Directory
) -> None:
    page = await start()
    cookie = await page.logged_in(ALICE)
    streams = [
        await page.get(STREAM, token=ALICE),
        await page.get("/live/?tab=abcdefgh", cookie=cookie),
    ]
    for stream in streams:
        await asyncio.wait_for(stream.content.readuntil(b"event: region"), SECONDS)
    del directory.users[ALICE]
    for stream in streams:
        await asyncio.wait_for(stream.text(), SECONDS)
    assert "your token has expired" not in await page.text(JOB, 401, cookie=cookie)
    await page.text(JOB, 401, token=ALICE)


async def test_page_of_a_token_that_is_rejected_meanwhile_is_the_login(
    start: Start, directory: Directory
) -> None:
    page = await start()
    cookie = await page.logged_in(ALICE)
    await page.text(JOB, cookie=cookie)
    del directory.users[ALICE]
    text = await page.text(JOB, 401, cookie=cookie)
    assert "your token has expired" in text
    assert "velmora" not in text


async def test_five_streams_per_user_in_all_browsers(start: Start, directory: Directory) -> None:
    page = await start()
    directory.namespaces.clear()
    browsers = [await page.logged_in(ALICE), await page.logged_in(ALICE)]
    streams = [
        await page.get(f"/live/?tab=tab-number-{at}", cookie=browsers[at % 2])
        for at in range(MOST_STREAMS)
    ]
    for cookie in browsers:
        assert (await page.get("/live/?tab=tab-number-9", cookie=cookie)).status == 429
    assert (await page.get("/live/?tab=tab-number-9", token=ALICE)).status == 429
    other = await page.get("/live/?tab=tab-number-0", token=BOB)
    assert other.status == 200, "another user has streams of their own"
    csrf = await page.form_token(cookie=browsers[0])
    await page.post("/logout", {"csrf": csrf}, cookie=browsers[0])
    for at in (0, 2, 4):
        assert "event: end" in await asyncio.wait_for(streams[at].text(), SECONDS)
    for stream in (streams[1], streams[3], other):
        assert not stream.content.at_eof(), "a logout ends only the streams of its browser"
        stream.close()


async def test_sessions_of_a_user_are_limited(start: Start) -> None:
    page = await start()
    cookies = [await page.logged_in(ALICE) for _ in range(MOST_SESSIONS + 1)]
    await page.text(JOB, 401, cookie=cookies[0])
    await page.text(JOB, cookie=cookies[1])
    await page.text(JOB, cookie=cookies[-1])


async def test_form_reads_nothing_but_the_api_server(start: Start) -> None:
    page = await start()
    cookie = await page.logged_in(ALICE)
    assert 'name="download"' not in await page.text("/new", cookie=cookie)
    form = {
        "csrf": await page.form_token(cookie=cookie),
        "name": "letters",
        "model.source": "hf://org/base-8b",
        "dataset.source": "hf://org/letters",
        "download": "yes",
    }
    text = await (await page.post("/new", form, cookie=cookie)).text()
    assert "config.json of the base model is not read" in text


def test_address_of_the_page_is_an_origin(connect: Callable[[str], Cluster]) -> None:
    application = pod.application(["https://ftj.example.com/"], Users(connect))
    assert list(application.origins) == ["https://ftj.example.com"]
    assert application.cookie == "__Host-ftj"
    for url in ("ftj.example.com", "https://ftj.example.com/page", "https://FTJ.example.com", "x"):
        with pytest.raises(WrongCall, match="is not the URL of a page"):
            pod.application([url], Users(connect))


def test_api_server_is_that_of_the_pod() -> None:
    names = pod.SERVER
    assert pod.server(dict(zip(names, ("10.0.0.1", "443"), strict=True))) == "https://10.0.0.1:443"
    assert pod.server(dict(zip(names, ("fd00::1", "443"), strict=True))) == "https://[fd00::1]:443"
    with pytest.raises(CommandFailed, match="run this program in a pod"):
        pod.server({})


@pytest.mark.parametrize(
    "token", ["opaque", "a.b.c", "e30.e30.x", "e30.bnVsbA.x", "e30.eyJleHAiOiJ4In0.x"]
)
def test_token_without_a_readable_time(token: str) -> None:
    assert tokens.seconds_left(token) is None


def test_token_with_a_time() -> None:
    assert tokens.seconds_left(page_users.expiring("alice", 60)) == pytest.approx(60, abs=30)
