"""Converts a row to a conversation or a text, by its columns, or reports why it is invalid."""

from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.data.rows import CONVERSATIONS, Role, Rows
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data.prompt_templates import ALPACA_INPUT
from finetune_trainer.data.rows import formats
from finetune_trainer.data.rows.conversations import (
    BrokenRow,
    Message,
    WrongColumn,
    kind_of,
    messages_of,
    require_text,
    tools_of,
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """The content of a row, independent of its format: a text, or messages.

    tools: the tools that the prompt describes. silent: the messages that the loss does not cover.
    """

    messages: list[Message] | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    silent: frozenset[int] = frozenset()


def example_of(
    values: dict[str, Any], rows: Rows, *, template: str | None, kind: Kind = "dataset"
) -> Example:
    """Return the content of a row. ``template`` is the kind of template; None for format text."""
    try:
        return _example(values, rows, template)
    except WrongColumn as problem:
        other = formats.detect(values, rows)
        if other in (None, rows.format):
            raise BrokenRow(f"{problem} in {kind}.columns") from None
        raise BrokenRow(
            f"has the columns of format {other}, not of format {rows.format}: set {kind}.format to "
            f"{other}, or set the columns in {kind}.columns"
        ) from None


def _example(values: dict[str, Any], rows: Rows, template: str | None) -> Example:
    columns = rows.columns
    if rows.format == "text":
        return Example(text=_text(values, columns.of("text")))
    if rows.format in CONVERSATIONS:
        messages, silent = _messages(values, rows)
        return Example(
            messages=messages, silent=silent, tools=tools_of(values, columns.of("tools"))
        )
    if rows.format == "prompt-completion":
        messages, silent = _prompt_completion(values, rows)
        return Example(
            messages=messages, silent=silent, tools=tools_of(values, columns.of("tools"))
        )
    prompt = _text(values, columns.of("instruction"))
    further = _text(values, columns.of("input"), optional=True)
    if further:
        prompt += (ALPACA_INPUT if template == "alpaca" else "\n\n") + further
    answer = _text(values, columns.of("output"))
    return Example(messages=[_said("user", prompt), _said("assistant", answer)])


def _prompt_completion(values: dict[str, Any], rows: Rows) -> tuple[list[Message], frozenset[int]]:
    completion = rows.columns.of("completion")
    asked, silent = _part(values, rows.columns.of("prompt"), rows, role="user")
    answered, unlearned = _part(values, completion, rows, role="assistant")
    if answered[0]["role"] != "assistant":
        raise BrokenRow(
            f"column {completion!r} starts with a message of role {answered[0]['role']}: it must "
            "start with a message of role assistant"
        )
    return asked + answered, silent | {len(asked) + at for at in unlearned}


def _part(
    values: dict[str, Any], column: str, rows: Rows, *, role: Role
) -> tuple[list[Message], frozenset[int]]:
    """Return the messages of a column with a text or a list of messages."""
    if isinstance(values.get(column), list):
        as_messages = rows.model_copy(update={"format": "messages"})
        return messages_of(values[column], column, as_messages)
    return [_said(role, _text(values, column))], frozenset()


def _messages(values: dict[str, Any], rows: Rows) -> tuple[list[Message], frozenset[int]]:
    column = formats.conversation_column(values, rows)
    if column not in values:
        raise WrongColumn(_absent(values, column))
    messages, silent = messages_of(values[column], column, rows)
    while messages and (messages[-1]["role"] != "assistant" or len(messages) - 1 in silent):
        # Messages after the last trained answer are not trained on.
        messages.pop()
    if not messages:
        raise BrokenRow(
            f"column {column!r} has no message of role assistant that the loss covers: remove the "
            "row, or add the answer"
        )
    return messages, silent


def _text(values: dict[str, Any], column: str, *, optional: bool = False) -> str:
    value = values.get(column)
    if optional and value is None:
        return ""
    if column not in values:
        raise WrongColumn(_absent(values, column))
    if not isinstance(value, str):
        raise BrokenRow(
            f"column {column!r} is {kind_of(value)} instead of text: write it as text, or remove "
            "the row"
        )
    if not optional and not value.strip():
        raise BrokenRow(f"column {column!r} is empty: remove the row, or fill in the column")
    require_text(value, f"column {column!r}")
    return value


def _absent(values: dict[str, Any], column: str) -> str:
    columns = ", ".join(sorted(map(str, values))[:8]) or "none"
    return f"has no column {column!r} (it has {columns}): set the column"


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
