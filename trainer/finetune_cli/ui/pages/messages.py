"""Pages without an object: the login, errors, and missing rights."""

from finetune_cli.ui.pages.html import Child, h, url
from finetune_cli.ui.pages.layout import Page, Region, note, pairs
from finetune_cli.ui.reading.rights import Right


def login(problem: str = "") -> Page:
    """Return the form for the one-time code."""
    content = (
        note(problem, "problem") if problem else None,
        h(
            "form",
            h(
                "label",
                "One-time code ",
                h("input", name="code", required=True, autocomplete="off", autofocus=True),
            ),
            h("button", "Log in"),
            method="post",
            action=url("login"),
            class_="filters",
        ),
        note("The terminal in which ftj ui runs shows the code, which is valid for one login."),
    )
    return _message("Log in", content, 401)


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
