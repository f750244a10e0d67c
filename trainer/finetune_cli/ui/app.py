"""The web application: its addresses, and what happens before each of them is answered.

A request is answered with the client of its session: the application has no rights of its own.
For one user, all addresses begin with a random path, because browsers send a cookie to every port
of a host, but only below its path: a server of another user of this machine does not get it.
"""

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from importlib import resources

from aiohttp import web

from finetune_cli.cluster.api import Expired, Unauthenticated
from finetune_cli.errors import CommandFailed
from finetune_cli.ui import answers, failures, live
from finetune_cli.ui.access import guard
from finetune_cli.ui.access.access import Access
from finetune_cli.ui.access.sessions import Session
from finetune_cli.ui.pages import layout, messages
from finetune_cli.ui.pages.html import Url
from finetune_cli.ui.pages.layout import Frame, Page
from finetune_cli.ui.pages.messages import Login
from finetune_cli.ui.views import DOWNLOADS, FORMS, QUESTIONS, VIEWS, Download, Form, Question, View

LARGEST_FORM = 64 * 1024
LARGEST_QUESTION = 1024 * 1024
"""Bytes: a question contains the conversation, in which a character takes up to twelve of them."""
QUESTION = "question"
"""Start of the names of the routes of questions."""
AFTER = "after"
"""Name in a query: where a list continues."""
STATIC = {
    "ui.css": "text/css",
    "ui.js": "text/javascript",
    "playground.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
SESSION: web.RequestKey[Session] = web.RequestKey("session", Session)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class Application:
    """The pages."""

    access: Access
    login: Login
    origins: Collection[str]
    """Where browsers reach this server: scheme, host, and port if the scheme has another one."""
    prefix: str
    shared: bool = False
    """Whether several users reach it, through a proxy and by links of other sites."""
    cookie: str = field(default_factory=lambda: f"ftj-{secrets.token_hex(8)}")
    """Name of the cookie. A server of another user on this machine can set cookies for the same
    host, but does not know the name of this one."""

    def build(self) -> web.Application:
        """Return the application for a server."""
        app = web.Application(middlewares=[self._guarded], client_max_size=LARGEST_FORM)
        app.on_response_prepare.append(_set_headers)
        app.on_shutdown.append(self._end)
        router = app.router
        router.add_get(f"{self.prefix}/login", self._login_form, name="login-form")
        router.add_post(f"{self.prefix}/login", self._login, name="login")
        router.add_post(f"{self.prefix}/logout", self._logout)
        router.add_get(f"{self.prefix}/static/{{file}}", self._static, name="static")
        for view in VIEWS:
            router.add_get(self.prefix + view.pattern, self._shown(view))
            if view.live:
                path = f"{self.prefix}/live{view.pattern}"
                router.add_get(path, self._followed(view), allow_head=False)
        for file in DOWNLOADS:
            router.add_get(self.prefix + file.pattern, self._file(file))
        for form in FORMS:
            router.add_post(self.prefix + form.pattern, self._sent(form))
        for at, question in enumerate(QUESTIONS):
            path = self.prefix + question.pattern
            router.add_post(path, self._asked(question), name=f"{QUESTION}{at}")
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = guard.refusal(
            request.method,
            hosts=request.headers.getall("Host", []),
            origins=request.headers.getall("Origin", []),
            fetch=guard.fetch(request.headers),
            own=self.origins,
            links=self.shared,
        )
        if refusal is not None:
            return web.Response(text=f"{refusal}\n", status=403)
        # Nobody learns the path from an error.
        if not request.path.startswith(f"{self.prefix}/"):
            return web.Response(text="Not found\n", status=404)
        try:
            return await self._answered(request, handler)
        except web.HTTPException as error:
            return self._html(failures.of_status(error.status), self._frame(request))
        except CommandFailed as error:
            return self._failed(request, error)
        except ConnectionError:
            raise
        except Exception as error:
            return self._html(failures.unexpected(error), self._frame(request))

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        authorization = request.headers.get("Authorization")
        session = await self.access.session(request.cookies.get(self.cookie), authorization)
        if session is None:
            return await handler(request) if _is_public(request) else self._unknown(request)
        request[SESSION] = session
        if (request.match_info.route.name or "").startswith(QUESTION):
            request = request.clone(client_max_size=LARGEST_QUESTION)
        if request.method not in guard.READING:
            await _check_token(request, session)
        try:
            return await handler(request)
        except Unauthenticated:
            self.access.rejected(session)
            raise

    def _unknown(self, request: web.Request, problem: str = "") -> web.Response:
        """Return what the user can do who is not logged in."""
        injected = self.shared and "Authorization" in request.headers
        page = messages.rejected() if injected else messages.login(self.login, problem)
        return self._html(page, Frame(prefix=self.prefix))

    def _failed(self, request: web.Request, error: CommandFailed) -> web.Response:
        session = request.get(SESSION)
        if session is not None and not self.access.valid(session):
            return self._unknown(request, self.login.ended)
        return self._html(failures.page(error), self._frame(request))

    def _shown(self, view: View) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            continued = AFTER in request.query
            try:
                page = await self._read(view, request)
            except Expired:
                if not continued:
                    raise
                return _first_page(request)
            # The token of a later page returns the list as it was: nothing of it changes.
            stream = self._stream(request) if view.live and not continued else None
            return self._html(page, self._frame(request, stream))

        return handle

    def _followed(self, view: View) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            session = request[SESSION]
            return await live.follow(
                request,
                session,
                lambda: self._read(view, request),
                lambda: self.access.valid(session),
                failures.reported,
                self.prefix,
            )

        return handle

    def _file(self, file: Download) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            place = dict(request.match_info)
            content = await asyncio.to_thread(file.read, request[SESSION].cluster, place)
            name = f"{place['name']}-{file.pattern.rpartition('/')[2]}"
            headers = {"Content-Disposition": f'attachment; filename="{name}"'}
            body = {"text": content} if isinstance(content, str) else {"body": content}
            return web.Response(**body, content_type=file.content_type, headers=headers)

        return handle

    def _sent(self, form: Form) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            values = await _values(request)
            result = await asyncio.to_thread(form.send, request[SESSION].cluster, values)
            if isinstance(result, Page):
                return self._html(result, self._frame(request))
            return web.Response(status=303, headers={"Location": result.text(self.prefix)})

        return handle

    def _asked(self, question: Question) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            place, form = dict(request.match_info), await _values(request)
            session = request[SESSION]
            return await answers.send(
                request,
                session,
                lambda interruption: question.ask(session.cluster, place, form, interruption),
                lambda: self.access.valid(session),
                failures.reported,
            )

        return handle

    async def _read(self, view: View, request: web.Request) -> Page:
        session = request[SESSION]
        place, query = dict(request.match_info), dict(request.query)
        try:
            return await asyncio.to_thread(view.read, session.cluster, place, query)
        except Unauthenticated:
            self.access.rejected(session)
            raise

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["file"]
        if name not in STATIC:
            raise web.HTTPNotFound
        text = (resources.files("finetune_cli.ui") / "static" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=STATIC[name])

    async def _login_form(self, request: web.Request) -> web.StreamResponse:
        if SESSION in request:
            return self._home()
        return self._unknown(request)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        cookie = await self.access.log_in(str((await request.post()).get(self.login.field, "")))
        if cookie is None:
            return self._unknown(request, self.login.wrong)
        response = self._home()
        response.set_cookie(
            self.cookie,
            cookie,
            path=f"{self.prefix}/",
            httponly=True,
            samesite="Strict",
            secure=all(origin.startswith("https:") for origin in self.origins),
        )
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        self.access.end(request[SESSION])
        response = self._unknown(request, self.login.ended)
        response.del_cookie(self.cookie, path=f"{self.prefix}/")
        return response

    def _home(self) -> web.Response:
        return web.Response(status=303, headers={"Location": f"{self.prefix}/"})

    def _html(self, page: Page, frame: Frame) -> web.Response:
        text = layout.text(page, frame)
        return web.Response(text=text, status=page.status, content_type="text/html")

    def _frame(self, request: web.Request, stream: Url | None = None) -> Frame:
        session = request.get(SESSION)
        if session is None:
            return Frame(prefix=self.prefix)
        return Frame(
            prefix=self.prefix,
            user=session.user,
            csrf=session.csrf,
            has_logout=session.has_cookie,
            stream=stream,
        )

    def _stream(self, request: web.Request) -> Url:
        """Return the address of the stream of a page, for the tab that gets the page."""
        segments = tuple(request.path.removeprefix(f"{self.prefix}/").split("/"))
        query = [(name, value) for name, value in request.query.items() if name != "tab"]
        return Url(("live", *segments), (*query, ("tab", secrets.token_urlsafe(12))))

    async def _end(self, app: web.Application) -> None:
        self.access.end_all()


def _first_page(request: web.Request) -> web.Response:
    query = [(name, value) for name, value in request.query.items() if name != AFTER]
    return web.Response(status=303, headers={"Location": str(request.rel_url.with_query(query))})


def _is_public(request: web.Request) -> bool:
    route = request.match_info.route
    return route.name in ("login-form", "login", "static")


async def _values(request: web.Request) -> dict[str, str]:
    """Return the fields of a form that have a value, without its token."""
    fields = (await request.post()).items()
    return {name: str(value) for name, value in fields if value and name != "csrf"}


async def _check_token(request: web.Request, session: Session) -> None:
    """Raise HTTPForbidden if a form does not have the token of its session."""
    written = str((await request.post()).get("csrf", ""))
    if not hmac.compare_digest(written.encode(errors="replace"), session.csrf.encode()):
        raise web.HTTPForbidden


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(guard.HEADERS)
    response.headers["Server"] = "ftj"
