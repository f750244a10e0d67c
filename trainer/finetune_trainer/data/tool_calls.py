"""Adapts tool calls to a chat template, and finds the parser with which vLLM reads them back."""

import re
import string
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from finetune_api.v1alpha1.data.rows import ToolCallParser
from finetune_trainer.data.rows.conversations import BrokenRow, Message

SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
"""The only form of an id that the chat templates of Mistral accept."""
_DIGITS = string.digits + string.ascii_letters

PARSERS: tuple[tuple[str, ToolCallParser], ...] = (
    (r"^\s*(<think>.*?</think>\s*)?.*<tool_call>\s*<function=", "qwen3_coder"),
    (r"^.*<tool_call>\s*\{", "hermes"),
    (r"^.*\[TOOL_CALLS\]", "mistral"),
    (r"^.*<｜tool▁calls▁begin｜>", "deepseek_v3"),
    (r"^.*functools\[", "phi4_mini_json"),
    (r'^\s*(<\|python_tag\|>)?\{"name": "[^"]+", "parameters":', "llama3_json"),
    (r"^\s*\[\w+\(.*\)\]", "pythonic"),
)
"""The form of an answer with a tool call, and the value of vLLM's --tool-call-parser (0.32.0)."""


def parser_of(answer: str) -> ToolCallParser | None:
    """Return the parser for an answer with a tool call; None if its form is unknown."""
    return next((name for form, name in PARSERS if re.search(form, answer, re.DOTALL)), None)


def calls_of(messages: Sequence[Message]) -> list[str]:
    """Return the names of the functions that the last message calls."""
    return [str(call["function"]["name"]) for call in messages[-1].get("tool_calls", ())]


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with ids of nine characters, as vLLM creates them for Mistral.

    An id of another form is replaced by characters of its digest. A call without an id gets one by
    its position; a result without an id belongs to the first call that has no result yet.
    """
    result, waiting = [], list[str]()
    for at, message in enumerate(messages):
        changed = dict(message)
        if calls := message.get("tool_calls"):
            ids = [_short(call.get("id", f"{at}.{number}")) for number, call in enumerate(calls)]
            changed["tool_calls"] = [
                {**call, "id": identity} for call, identity in zip(calls, ids, strict=True)
            ]
            waiting = ids
        elif message["role"] == "tool":
            call_id = message.get("tool_call_id")
            own = (
                _short(call_id) if call_id is not None else (waiting[0] if waiting else _short(""))
            )
            changed["tool_call_id"] = own
            waiting = [identity for identity in waiting if identity != own]
        result.append(changed)
    return result


def with_first_calls(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with only the first tool call of each message."""
    return [
        {**message, "tool_calls": message["tool_calls"][:1]} if "tool_calls" in message else message
        for message in messages
    ]


def several_calls(messages: Sequence[Message]) -> BrokenRow:
    """Return the error for a template, such as Llama's, that renders one tool call per message."""
    at, count = next(
        (at, len(message["tool_calls"]))
        for at, message in enumerate(messages)
        if len(message.get("tool_calls", ())) > 1
    )
    return BrokenRow(
        f"message {at} has {count} tool calls, but the chat template renders only one per message: "
        "write each call as a message of its own, with the result of the call after this message, "
        "or set dataset.chatTemplate to a template that renders all calls"
    )


def ignored_tools() -> BrokenRow:
    """Return the error for a template that does not write the tools into the prompt."""
    return BrokenRow(
        "the chat template does not write the tools into the prompt, so the model would not see "
        "them: choose a base model whose chat template supports tools, or set "
        "dataset.chatTemplate to a template that supports tools"
    )


def ignored_call(name: str) -> BrokenRow:
    """Return the error for a template that does not write a tool call into the answer."""
    return BrokenRow(
        f"the chat template does not render the call of the tool {name}: choose a base model whose "
        "chat template supports tool calls, or set dataset.chatTemplate to a template that "
        "supports tool calls"
    )


def _short(identity: Any) -> str:
    text = str(identity)
    if SHORT_ID.fullmatch(text):
        return text
    return "".join(_DIGITS[byte % len(_DIGITS)] for byte in sha256(text.encode()).digest()[:9])
