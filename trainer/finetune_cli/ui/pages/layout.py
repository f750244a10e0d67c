"""The frame of all pages: navigation, the regions of a page, tables, and notes."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_cli.ui.pages.html import Child, Element, Url, document, h, render, url

PROGRAM = "ftj ui"
JOBS, ENDPOINTS = "Jobs", "Endpoints"
MONEY, PROFILES = "Budgets and usage", "Profiles"
NAVIGATION = (
    (JOBS, url("")),
    (ENDPOINTS, url("endpoints")),
    (MONEY, url("usage")),
    (PROFILES, url("profiles")),
)
FULL, TWO_THIRDS, HALF, THIRD = 6, 4, 3, 2

TOKEN = h("input", type="hidden", name="csrf")
"""Field of a form in a page: the script of the page copies the token of the session into it."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a page with a heading. ``live``: a stream replaces it when it changes."""

    id: str
    title: str
    content: Child
    live: bool = True
    width: int = FULL
    """Columns of six on a wide screen."""
    named: bool = True
    """Whether the heading is visible: a page with a single region needs none."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its title, the short text that is read aloud when it changes, and its regions."""

    title: str
    regions: tuple[Region, ...]
    announcement: str = ""
    status: int = 200
    path: Child = None
    """Where the page is: what contains its object."""
    actions: Child = None
    script: str | None = None
    """Script of this page, in addition to that of all pages."""
    section: str = ""
    """Entry of the navigation to which the page belongs."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What surrounds a page for one user: empty before the login."""

    prefix: str
    user: str = ""
    csrf: str = ""
    has_logout: bool = True
    stream: Url | None = None


def inner(region: Region, prefix: str) -> str:
    """Return the HTML inside a region."""
    return render(_inner(region), prefix)


def _inner(region: Region) -> Child:
    return h("h2", region.title, class_=None if region.named else "hidden"), region.content


def version(html: str) -> str:
    """Return a short digest of HTML, by which a browser knows that it has it already."""
    return hashlib.sha256(html.encode()).hexdigest()[:12]


def text(page: Page, frame: Frame) -> str:
    """Return the document of a page."""
    body = h(
        "body",
        h("a", "Skip to the content", href=_here(), class_="skip"),
        _header(frame, page.section),
        h(
            "main",
            _title(page),
            h("div", [_region(region, frame.prefix) for region in page.regions], class_="regions"),
            id="content",
            tabindex="-1",
        ),
        data_stream=frame.stream,
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{page.title} - {PROGRAM}"),
        h("link", rel="icon", href=url("static", "icon.svg")),
        h("link", rel="stylesheet", href=url("static", "ui.css")),
        h("script", src=url("static", "ui.js"), defer=True),
        h("script", src=url("static", page.script), defer=True) if page.script else None,
    )
    return document(h("html", head, body, lang="en"), frame.prefix)


def _title(page: Page) -> Element:
    announced = h("p", page.announcement, id="announcement", role="status", class_="announcement")
    return h(
        "div",
        h("div", h("p", page.path, class_="path") if page.path else None, h("h1", page.title)),
        h("p", page.actions, class_="actions") if page.actions else None,
        announced,
        class_="title",
    )


def _here() -> "Fragment":
    return Fragment((), (), "content")


class Fragment(Url):
    """A place in the present page."""

    def text(self, prefix: str) -> str:
        """Return the fragment alone."""
        return f"#{self.fragment}"


def _region(region: Region, prefix: str) -> Element:
    seen = version(inner(region, prefix)) if region.live else None
    return h(
        "section",
        _inner(region),
        id=region.id,
        data_version=seen,
        aria_label=region.title,
        class_=f"wide{region.width}",
    )


def _header(frame: Frame, section: str) -> Element:
    brand = (h("img", src=url("static", "icon.svg"), alt="", width="24", height="24"), PROGRAM)
    if not frame.csrf:
        return h("header", h("span", brand, class_="brand"))
    links = (
        h("li", h("a", name, href=to, aria_current="page" if name == section else None))
        for name, to in NAVIGATION
    )
    token = h("input", type="hidden", name="csrf", value=frame.csrf)
    logout = h("form", token, h("button", "Log out"), method="post", action=url("logout"))
    return h(
        "header",
        h("a", brand, href=url(""), class_="brand"),
        h("nav", h("ul", links), aria_label="Pages"),
        h("span", id="connection", class_="connection"),
        h("span", frame.user, class_="context"),
        logout if frame.has_logout else token,
    )


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Child]], *, hidden: bool = True
) -> Element:
    """Return a table. The first cell of a row is its header.

    On a narrow screen, the style sheet shows each row as a list with the names of the columns;
    browsers would then not offer it as a table without the roles. hidden: whether the caption is
    for screen readers alone, because a heading has the same text.
    """
    body = [
        h(
            "tr",
            h("th", row[0], scope="row", role="rowheader"),
            [
                h("td", h("div", cell), role="cell", data_label=title) if cell != "" else _EMPTY
                for title, cell in zip(head[1:], row[1:], strict=True)
            ],
            role="row",
        )
        for row in rows
    ]
    titles = [h("th", title, scope="col", role="columnheader") for title in head]
    made = h(
        "table",
        h("caption", caption, class_="hidden" if hidden else None),
        h("thead", h("tr", titles, role="row"), role="rowgroup"),
        h("tbody", body, role="rowgroup"),
        role="table",
    )
    return h("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)


_EMPTY = h("td", role="cell")


def pairs(rows: Iterable[tuple[str, Child]], kind: str | None = None) -> Element:
    """Return names and values, without those that have no value."""
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    return h("dl", [h("div", h("dt", name), h("dd", value)) for name, value in shown], class_=kind)


def preformatted(text: str, label: str, kind: str | None = None) -> Element:
    """Return a text that scrolls. label: for screen readers."""
    return h("pre", text, class_=kind, role="region", tabindex="0", aria_label=label)


def note(words: Child, kind: str = "quiet") -> Element:
    """Return a sentence that explains a page. kind: quiet or problem."""
    return h("p", words, class_=kind)


def state(words: str, kind: str) -> Element:
    """Return a state with its color. The color says nothing that the words do not say."""
    return h("span", words, class_=f"state {kind}")
