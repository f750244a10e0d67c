"""Markers of TRL's training templates: used where they are known, without another result."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from tests.support.trainer import template_families, tiny
from tests.trainer.data.test_template_families import ONE, QUESTION, SECOND, TWO, encode, tokens

from finetune_trainer.data import training_templates
from finetune_trainer.data.chat_rendering import IGNORED, Renderer
from finetune_trainer.data.rows.conversations import BrokenRow
from finetune_trainer.data.training_templates import SUFFIX, training_template

TEMPLATES = files("trl").joinpath("chat_templates")
PUBLISHED = sorted(
    name
    for path in TEMPLATES.iterdir()
    if path.name.endswith(SUFFIX)
    and TEMPLATES.joinpath(name := f"{path.name.removesuffix(SUFFIX)}.jinja").is_file()
)
CALL = {"type": "function", "id": "a23456789", "function": {"name": "track", "arguments": {}}}
THINKING = [{**each, "reasoning_content": "Hm."} for each in TWO]
CALLING: list[dict[str, Any]] = [
    ONE[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "track", "tool_call_id": "a23456789", "content": "Hamburg"},
    TWO[-1],
]
NONE: Callable[[str], None] = lambda _: None  # noqa: E731


def published(name: str) -> str:
    return TEMPLATES.joinpath(name).read_text(encoding="utf-8")


class Characters:
    """Renders with a real tokenizer; each character is a token."""

    eos_token_id = None
    special_tokens_map = tiny.tokenizer().special_tokens_map
    apply_chat_template = staticmethod(tiny.tokenizer().apply_chat_template)

    def __call__(self, text: str, **_: Any) -> Any:
        return type("Encoding", (), {"input_ids": [ord(each) for each in text]})


def learned(template: str, messages: list[dict[str, Any]]) -> tuple[list[int], int] | str:
    """Return the learned tokens and the number of sequences, or the error."""
    renderer = Renderer(
        Characters(), template=template, train_on="responses", stops=[ord(">"), ord("]")]
    )
    try:
        found = renderer.conversation(messages)
    except BrokenRow as error:
        return str(error)
    labels = [label for each in found for label in each.labels if label != IGNORED]
    return labels, len(found)


@pytest.mark.parametrize("name", PUBLISHED)
def test_markers_change_no_learned_token(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    template = published(name)
    assert training_template(template) is not None
    rows = ([TWO[0], *TWO], [*TWO, *TWO], THINKING, CALLING)
    marked = [learned(template, row) for row in rows]
    monkeypatch.setattr(training_templates, "training_template", NONE)
    for with_markers, without in zip(marked, [learned(template, row) for row in rows], strict=True):
        if isinstance(with_markers, str) or isinstance(without, str):
            assert with_markers == without
        else:
            assert with_markers[0] == without[0]
            assert with_markers[1] <= without[1]


PHI = replace(template_families.PHI, template=published("phi3.jinja"))
PARTS = [
    (f"<|user|>\n{QUESTION}<|end|>\n<|assistant|>\n", False),
    ("Paris.<|end|>", True),
    (f"\n<|user|>\n{SECOND}<|end|>\n<|assistant|>\n", False),
    ("Today.<|end|>", True),
    ("\n<|endoftext|>", False),
]


def test_conversation_is_one_sequence_although_the_template_ends_the_last_answer_differently() -> (
    None
):
    (found,) = encode(PHI, TWO)
    assert (found.input_ids, found.labels) == tokens(PHI, PARTS)


def test_without_markers_each_answer_is_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_templates, "training_template", NONE)
    assert len(encode(PHI, TWO)) == 2


def test_marked_answer_without_an_end_token_is_not_used() -> None:
    """In the history, GPT-OSS ends an answer with another token than in a request."""
    oss = replace(
        template_families.QWEN,
        template=published("gptoss.jinja"),
        marks=("<|return|>", "<|end|>", "<|start|>", "<|message|>", "<|channel|>"),
        eos="<|return|>",
        stops=(),
    )
    found = encode(oss, TWO)
    (stop,) = oss.stop_ids()
    assert [[label for label in each.labels if label != IGNORED][-1] for each in found] == [
        stop,
        stop,
    ]


@pytest.mark.parametrize(
    ("change", "marked"),
    [
        (lambda text: text, True),
        (lambda text: "{%- macro strftime_now(format) %}today{%- endmacro %}\n" + text, True),
        (lambda text: text + " ", False),
        (lambda text: text.replace("assistant", "bot"), False),
    ],
    ids=["published", "with-a-fixed-date", "with-a-space", "changed"],
)
def test_only_published_templates_have_markers(change: Callable[[str], str], marked: bool) -> None:
    text = change(published("qwen2_5.jinja"))
    found = training_template(text)
    assert (found is not None) == marked
    if found is not None:
        assert "{% generation %}" in found.replace("{%-", "{%").replace("-%}", "%}")
        assert found.startswith("{%- macro") == text.startswith("{%- macro")


def test_template_that_rejects_the_messages_has_no_marked_rendering() -> None:
    text = training_template(published("gemma.jinja"))
    assert text is not None
    rejected = [{"role": "system", "content": "Answer briefly."}, *TWO]
    assert training_templates.render(text, rejected, tiny.tokenizer(), tools=None) is None
