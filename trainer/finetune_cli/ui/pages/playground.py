"""The playground: a form that asks a served model, and the answers as they arrive."""

from finetune_cli.ui.pages.html import Child, Url, h, url
from finetune_cli.ui.pages.layout import ENDPOINTS, JOBS, TOKEN, Page, Region, note
from finetune_cli.ui.reading.playground import Target

SCRIPT = "playground.js"
PLACES = {"FineTuneJob": ("jobs", JOBS), "FineTuneEndpoint": ("endpoints", ENDPOINTS)}
"""The first part of the address, and the entry of the navigation, of each kind."""


def page(target: Target) -> Page:
    """Return the page."""
    folder, section = PLACES[target.kind]
    place = (folder, target.namespace, target.name)
    content = _form(target, url(*place, "ask")) if target.models else _nothing(target)
    region = Region(id="playground", title="Playground", content=content, live=False, named=False)
    path = (f"{target.kind} ", h("a", target.name, href=url(*place)))
    return Page(title="Playground", regions=(region,), path=path, section=section, script=SCRIPT)


def _nothing(target: Target) -> Child:
    return note(f"{target.kind} {target.name} serves no model at present.")


def _form(target: Target, action: Url) -> Child:
    choices = [h("option", model, value=model) for model in target.models]
    options = (
        h("label", "Model", h("select", choices, name="model")),
        h("label", "Tokens of an answer", h("input", name="tokens", inputmode="numeric")),
        h("label", "Temperature", h("input", name="temperature", inputmode="decimal")),
        _key() if target.needs_key else None,
    )
    return (
        h("ol", id="turns", class_="turns", aria_label="Conversation"),
        h("p", id="outcome", class_="quiet", role="status"),
        h(
            "form",
            TOKEN,
            h("label", "Question", h("textarea", name="question", rows="3", required=True)),
            h(
                "div",
                h("button", "Ask"),
                _button("Stop", "stop"),
                _button("Clear", "clear"),
                class_="filters",
            ),
            h(
                "details",
                h("summary", "Model, system prompt and sampling"),
                h("div", options, class_="filters"),
                h("label", "System prompt", h("textarea", name="system", rows="2")),
                id="options",
                open=target.needs_key or len(target.models) > 1,
            ),
            id="ask",
            method="post",
            action=action,
            class_="form",
        ),
        note(
            "The conversation is in this tab alone, and ends with it. Requests pass through your "
            "own right to forward ports of pods."
        ),
    )


def _key() -> Child:
    return h(
        "label",
        "API key, which is not stored",
        h("input", name="key", type="password", autocomplete="off"),
    )


def _button(words: str, id_: str) -> Child:
    return h("button", words, type="button", id=id_, class_="second")
