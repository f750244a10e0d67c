"""Pages without an object: the login, errors, and missing rights."""

from dataclasses import dataclass

from finetune_cli.ui.pages.html import Child, h, url
from finetune_cli.ui.pages.layout import Page, Region, note, pairs
from finetune_cli.ui.reading.rights import Right


@dataclass(frozen=True, kw_only=True)
class Login:
    """What a user types to log in, and what the form says about it."""

    field: str
    label: str
    about: str
    wrong: str
    ended: str
    type: str


CODE = Login(
    field="code",
    label="One-time code ",
    about="The terminal in which ftj ui runs shows the code, which is valid for one login.",
    wrong="This is not the code, or it was used already. To get a new code, start ftj ui again.",
    ended="You are logged out. To get a new code, start ftj ui again.",
    type="text",
)
TOKEN = Login(
    field="token",
    label="Token ",
    about=(
        "Paste a token that the API server of this cluster accepts. The page acts with the rights "
        "of this token alone, and keeps it in memory until you log out or the token expires."
    ),
    wrong="The API server rejects this token, or it has expired: paste another one.",
    ended="You are logged out, or your token has expired. Paste another token.",
    type="password",
)


def login(form: Login, problem: str = "") -> Page:
    """Return the form for the login."""
    content = (
        note(problem, "problem") if problem else None,
        h(
            "form",
            h(
                "label",
                form.label,
                h(
                    "input",
                    name=form.field,
                    type=form.type,
                    required=True,
                    autocomplete="off",
                    autofocus=True,
                ),
            ),
            h("button", "Log in"),
            method="post",
            action=url("login"),
            class_="filters",
        ),
        note(form.about),
    )
    return _message("Log in", content, 401)


def rejected() -> Page:
    """Return what to do about a token that the API server rejects."""
    words = (
        "The API server rejects the token that the proxy in front of this page has sent. Log out "
        "at the proxy, and log in again. If the problem remains, ask an administrator whether the "
        "API server accepts the tokens of the proxy."
    )
    return error("Token rejected", words, 401)


def error(title: str, words: str, status: int) -> Page:
    """Return an error."""
    return _message(title, note(words, "problem"), status)


def denied(right: Right, message: str) -> Page:
    """Return which right is missing."""
    content = (
        note(f"You may not {right.text}.", "problem"),
        pairs(
            (
                ("Verb", right.verb),
                ("Resource", right.resource),
                ("Namespace", right.namespace or "all"),
                ("API server", message),
            )
        ),
        note(("To ask the API server, run: ", h("code", right.command))),
    )
    return _message("Missing right", content, 403)


def _message(title: str, content: Child, status: int) -> Page:
    region = Region(id="message", title="Message", content=content, live=False, named=False)
    return Page(title=title, regions=(region,), status=status)
