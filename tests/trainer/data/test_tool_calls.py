"""Rows with tools: what the templates of five families render, and which tokens are trained."""

import json
import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from tests.support.trainer import template_families as families
from tests.support.trainer.template_families import Family
from tests.support.trainer.tiny import CHAT_TEMPLATE

from finetune_api.v1alpha1.data.rows import Rows
from finetune_trainer.data import tool_calls
from finetune_trainer.data.chat_rendering import IGNORED, Encoded, Renderer
from finetune_trainer.data.rows.conversations import BrokenRow
from finetune_trainer.data.rows.schema import example_of
from finetune_trainer.data.split import content_hash

ROWS = Rows(source="hf://a/b", format="messages")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


def call(city: str, identity: str | None = "call_1") -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": identity, "type": "function", "function": function}


ASKED = {"role": "user", "content": "Rain in Lima?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [call("Lima")]}
RESULT = {"role": "tool", "content": "19", "tool_call_id": "call_1"}
TOLD = {"role": "assistant", "content": "No rain."}
AGAIN = {"role": "user", "content": "And Rome?"}
CALLED_AGAIN = {"role": "assistant", "content": None, "tool_calls": [call("Rome", "call_2")]}
MESSAGES = [ASKED, CALLED, RESULT, TOLD]


def published(family: Family, file: str) -> Family:
    """Return a family with the original template, which is part of TRL."""
    text = files("trl").joinpath("chat_templates", f"{file}.jinja").read_text()
    return replace(family, name=file, template=text)


LLAMA = published(families.LLAMA_3_1, "llama3_1")
FAMILIES = (
    LLAMA,
    published(families.QWEN, "qwen2_5"),
    published(families.QWEN_3, "qwen3"),
    families.MISTRAL_TOOLS,
    families.HERMES,
)


def renderer(family: Family, *, train_on: str = "responses") -> Renderer:
    return Renderer(
        family.tokenizer(), template=family.template, train_on=train_on, stops=family.stop_ids()
    )


def encode(
    family: Family, messages: list[Any], tools: Any = (TOOL,), **options: Any
) -> tuple[list[Encoded], Renderer]:
    row = {"messages": messages, "tools": list(tools) if isinstance(tools, tuple) else tools}
    made = renderer(family, **options)
    return made.example(example_of(row, ROWS, template="chat")), made


def trained(family: Family, found: list[Encoded]) -> list[str]:
    """Return the texts that the loss covers, in order."""
    texts = []
    for each in found:
        span = list[int]()
        for token, label in zip([*each.input_ids, 0], [*each.labels, IGNORED], strict=True):
            if label != IGNORED:
                span.append(token)
            elif span:
                texts.append(family.tokenizer().decode(span))
                span = []
    return texts


SHORT = "[A-Za-z0-9]{9}"
ANSWERS = {
    "llama3_1": (r'\{"name": "weather", "parameters": \{"city": "Lima"\}\}<\|eot_id\|>', ""),
    "qwen2_5": (
        r'<tool_call>\n\{"name": "weather", "arguments": \{"city": "Lima"\}\}\n</tool_call>'
        r"<\|im_end\|>",
        "",
    ),
    "qwen3": (
        r"<think>\n\n</think>\n\n"
        r'<tool_call>\n\{"name": "weather", "arguments": \{"city": "Lima"\}\}\n</tool_call>'
        r"<\|im_end\|>",
        r"<think>\n\n</think>\n\n",
    ),
    "Mistral-tools": (
        r'\[TOOL_CALLS\] \[\{"name": "weather", "arguments": \{"city": "Lima"\}, '
        rf'"id": "{SHORT}"\}}\]</s>',
        " ",
    ),
    "Hermes": (
        r'<tool_call>\n\{"name": "weather", "arguments": \{"city": "Lima"\}\}\n</tool_call>'
        r"<\|im_end\|>",
        "",
    ),
}
PARSERS = {
    "llama3_1": "llama3_json",
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "Mistral-tools": "mistral",
    "Hermes": "hermes",
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_calls_and_answers_are_trained_and_schemas_and_results_are_not(family: Family) -> None:
    found, made = encode(family, MESSAGES)
    called, before = ANSWERS[family.name]
    end = family.tokenizer().decode(found[-1].labels[-1:]) if found[-1].labels[-1] >= 0 else None
    texts = trained(family, found)
    assert len(texts) == 2
    assert re.fullmatch(called, texts[0]), texts[0]
    assert re.match(before + r"No rain\.<", texts[1]), (texts[1], end)
    whole = family.tokenizer().decode(found[-1].input_ids)
    assert '"required"' in whole
    assert "19" in whole
    assert "weather" in whole
    assert made.parser == PARSERS[family.name]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_answer_follows_the_prompt_of_a_request(family: Family) -> None:
    messages = [*MESSAGES, AGAIN, CALLED_AGAIN]
    found, made = encode(family, messages)
    example = example_of({"messages": messages, "tools": [TOOL]}, ROWS, template="chat")
    turns = example.messages or []
    if family is families.MISTRAL_TOOLS:
        turns = tool_calls.with_short_ids(turns)
    for at in (1, 3, 5):
        text = family.tokenizer().apply_chat_template(
            turns[:at], tools=[TOOL], add_generation_prompt=True, tokenize=False
        )
        prompt = family.tokenizer()(text, add_special_tokens=False).input_ids
        assert any(
            each.input_ids[: len(prompt)] == prompt and each.labels[len(prompt)] != IGNORED
            for each in found
            if len(each) > len(prompt)
        ), at
    assert made.parser is not None


@pytest.mark.parametrize(
    "tools",
    [
        (TOOL,),
        (TOOL["function"],),
        json.dumps([TOOL]),
        [{"type": "function", "function": {**TOOL["function"], "parameters": json.dumps(SCHEMA)}}],  # type: ignore[dict-item]
        [{**TOOL, "strict": None}],
    ],
)
def test_tools_as_objects_and_as_text_are_equal(tools: Any) -> None:
    expected, _ = encode(families.HERMES, MESSAGES)
    assert encode(families.HERMES, MESSAGES, tools)[0] == expected


def test_ids_of_mistral_are_mapped_and_agree() -> None:
    ids = [None, "call_abc", "abcdef123"]
    calls = [call("Lima", identity) for identity in ids]
    results = [{"role": "tool", "content": str(at)} for at in range(3)]
    for result, identity in zip(results, ids, strict=True):
        if identity:
            result["tool_call_id"] = identity
    row = [ASKED, {**CALLED, "tool_calls": calls}, *results, TOLD]
    found, _ = encode(families.MISTRAL_TOOLS, row)
    text = families.MISTRAL_TOOLS.tokenizer().decode(found[0].input_ids)
    called = re.findall(rf'"id": "({SHORT})"', text)
    assert called == re.findall(rf'"call_id": "({SHORT})"', text)
    assert len(set(called)) == 3
    assert called[2] == "abcdef123"


@pytest.mark.parametrize(
    ("family", "messages", "tools", "said"),
    [
        (
            LLAMA,
            [ASKED, {**CALLED, "tool_calls": [call("Lima"), call("Rome")]}],
            (TOOL,),
            "message 1 has 2 tool calls, but the chat template renders only one per message: write",
        ),
        (
            families.LLAMA_3,
            [ASKED, TOLD],
            (TOOL,),
            "does not write the tools into the prompt",
        ),
        (families.LLAMA_3, [ASKED, CALLED], (), "does not render the call of the tool weather"),
        (families.HERMES, MESSAGES, "[", r"column 'tools' is text, but not valid JSON"),
        (families.HERMES, MESSAGES, {"a": 1}, "column 'tools' is an object instead of a list"),
        (
            families.HERMES,
            MESSAGES,
            ["weather"],
            r"tools\[0\] is not a function in the OpenAI format",
        ),
        (
            families.HERMES,
            MESSAGES,
            [{"name": "f", "parameters": "[]"}],
            r"tools\[0\].function.parameters is a list instead of a JSON Schema",
        ),
        (
            families.HERMES,
            [ASKED, {**CALLED, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            (TOOL,),
            r"messages\[1\].tool_calls\[0\].function.arguments is text, but not valid JSON",
        ),
        (
            families.HERMES,
            [ASKED, {**CALLED, "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            (TOOL,),
            "arguments is a list instead of an object",
        ),
        (
            families.HERMES,
            [ASKED, {"role": "assistant", "tool_calls": [{"id": "1"}]}],
            (TOOL,),
            r"messages\[1\].tool_calls\[0\] is not a tool call",
        ),
        (
            families.HERMES,
            [ASKED, {"role": "assistant", "function_call": {"name": "f"}}],
            (TOOL,),
            "has the key function_call, which OpenAI has replaced",
        ),
        (
            families.HERMES,
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, TOLD],
            (TOOL,),
            r"messages\[0\].content has parts that are not text",
        ),
        (
            families.HERMES,
            [ASKED, {**TOLD, "weight": 0.5}],
            (TOOL,),
            r"messages\[1\].weight is 0.5: use 1",
        ),
        (
            families.HERMES,
            [ASKED, {**TOLD, "weight": 0}],
            (TOOL,),
            "has no message of role assistant that the loss covers",
        ),
    ],
)
def test_invalid_tools_are_explained(
    family: Family, messages: list[Any], tools: Any, said: str
) -> None:
    with pytest.raises(BrokenRow, match=said):
        encode(family, messages, tools)


def test_messages_of_weight_zero_are_rendered_but_not_trained() -> None:
    wrong = {"role": "assistant", "content": "Snow.", "weight": 0}
    right = {**TOLD, "weight": 1}
    found, _ = encode(families.HERMES, [ASKED, wrong, AGAIN, right], None)
    assert trained(families.HERMES, found) == ["No rain.<|im_end|>"]
    same, _ = encode(families.HERMES, [ASKED, {**wrong, "weight": 1}, AGAIN, right], None)
    assert [each.input_ids for each in found] == [each.input_ids for each in same]
    assert trained(families.HERMES, same) == ["Snow.<|im_end|>", "No rain.<|im_end|>"]
    with pytest.raises(BrokenRow, match=r"set trainOn to responses, or remove the weights"):
        encode(families.HERMES, [ASKED, wrong, AGAIN, right], None, train_on="all")


def test_tools_and_weights_belong_to_the_content_of_a_row() -> None:
    plain = example_of({"messages": [ASKED, TOLD, AGAIN, TOLD]}, ROWS, template="chat")
    tools = replace(plain, tools=[TOOL])
    silent = replace(plain, silent=frozenset({1}))
    assert len({content_hash(each, 1) for each in (plain, tools, silent)}) == 3


def test_templates_without_tools_are_not_asked_about_them() -> None:
    """A dataset may have the column tools in some rows only."""
    family = replace(families.QWEN, template=CHAT_TEMPLATE)
    assert len(encode(family, [ASKED, TOLD], None)[0]) == 1


@pytest.mark.parametrize(
    ("answer", "parser"),
    [
        ("<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter></function>", "qwen3_coder"),
        ("[f(a=1)]", "pythonic"),
        ('<|python_tag|>{"name": "f", "parameters": {}}<|eom_id|>', "llama3_json"),
        ("call f now", None),
    ],
)
def test_parser_of_other_forms(answer: str, parser: str | None) -> None:
    assert tool_calls.parser_of(answer) == parser
