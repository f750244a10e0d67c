"""The frame of all pages: navigation, the regions of a page, tables, and notes."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_cli.ui.pages.html import Child, Element, Url, document, h, render, url

PROGRAM = "ftj ui"
NAVIGATION = (("Jobs", url("")), ("Budgets and usage", url("usage")), ("Profiles", url("profiles")))


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a page with a heading. ``live``: a stream replaces it when it changes."""

    id: str
    title: str
    content: Child
    live: bool = True


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its title, the short text that is read aloud when it changes, and its regions."""

    title: str
    regions: tuple[Region, ...]
    announcement: str = ""
    status: int = 200


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What surrounds a page for one user: empty before the login."""

    prefix: str
    context: str = ""
    csrf: str = ""
    stream: Url | None = None


def inner(region: Region, prefix: str) -> str:
    """Return the HTML inside a region."""
    return render((h("h2", region.title), region.content), prefix)


def version(html: str) -> str:
    """Return a short digest of HTML, by which a browser knows that it has it already."""
    return hashlib.sha256(html.encode()).hexdigest()[:12]


def text(page: Page, frame: Frame) -> str:
    """Return the document of a page."""
    regions = [_region(region, frame.prefix) for region in page.regions]
    announced = h("p", page.announcement, id="announcement", role="status", class_="announcement")
    body = h(
        "body",
        h("a", "Skip to the content", href=_here(), class_="skip"),
        _header(frame),
        h("main", h("h1", page.title), announced, regions, id="content", tabindex="-1"),
        data_stream=frame.stream,
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{page.title} - {PROGRAM}"),
        h("link", rel="stylesheet", href=url("static", "ui.css")),
        h("script", src=url("static", "ui.js"), defer=True),
    )
    return document(h("html", head, body, lang="en"), frame.prefix)


def _here() -> "Fragment":
    return Fragment((), (), "content")


class Fragment(Url):
    """A place in the present page."""

    def text(self, prefix: str) -> str:
        """Return the fragment alone."""
        return f"#{self.fragment}"


def _region(region: Region, prefix: str) -> Element:
    seen = version(inner(region, prefix)) if region.live else None
    content = (h("h2", region.title), region.content)
    return h("section", content, id=region.id, data_version=seen, aria_label=region.title)


def _header(frame: Frame) -> Element:
    if not frame.csrf:
        return h("header", h("span", PROGRAM, class_="brand"))
    links = (h("li", h("a", name, href=to)) for name, to in NAVIGATION)
    logout = h(
        "form",
        h("input", type="hidden", name="csrf", value=frame.csrf),
        h("button", "Log out"),
        method="post",
        action=url("logout"),
    )
    return h(
        "header",
        h("span", PROGRAM, class_="brand"),
        h("nav", h("ul", links), aria_label="Pages"),
        h("span", f"context {frame.context}", class_="quiet"),
        h("span", id="connection", class_="quiet"),
        logout,
    )


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Child]], *, hidden: bool = True
) -> Element:
    """Return a table that scrolls on a narrow screen. The first cell of a row is its header.

    hidden: whether the caption is for screen readers alone, because a heading has the same text.
    """
    body = [
        h("tr", h("th", row[0], scope="row"), [h("td", cell) for cell in row[1:]]) for row in rows
    ]
    made = h(
        "table",
        h("caption", caption, class_="hidden" if hidden else None),
        h("thead", h("tr", [h("th", title, scope="col") for title in head])),
        h("tbody", body),
    )
    return h("div", made, class_="scroll", role="region", tabindex="0", aria_label=caption)


def pairs(rows: Iterable[tuple[str, Child]]) -> Element:
    """Return names and values, without those that have no value."""
    shown = [(name, value) for name, value in rows if value not in (None, "")]
    return h("dl", [(h("dt", name), h("dd", value)) for name, value in shown])


def preformatted(text: str, label: str, kind: str | None = None) -> Element:
    """Return a text that scrolls. label: for screen readers."""
    return h("pre", text, class_=kind, role="region", tabindex="0", aria_label=label)


def note(words: Child, kind: str = "quiet") -> Element:
    """Return a sentence that explains a page. kind: quiet or problem."""
    return h("p", words, class_=kind)


def state(words: str, kind: str) -> Element:
    """Return a state with its color. The color says nothing that the words do not say."""
    return h("span", words, class_=f"state {kind}")
