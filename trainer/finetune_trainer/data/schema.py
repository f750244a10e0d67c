"""Converts a row to a conversation or a text, by its columns, or reports why it is invalid."""

from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.rows import COLUMNS_OF_FORMAT, Rows
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data.prompt_templates import ALPACA_INPUT

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = dict[str, Any]


class BrokenRow(ValueError):
    """A row cannot be trained on. The text has column and remediation; the caller adds the row."""


class _WrongColumn(BrokenRow):
    """A column is missing or wrong; the caller adds the field that names columns."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """The content of a row, independent of its format. Exactly one field is set."""

    messages: list[Message] | None = None
    text: str | None = None


def example_of(
    values: dict[str, Any], rows: Rows, *, template: str | None, kind: Kind = "dataset"
) -> Example:
    """Return the content of a row. ``template`` is the kind of template; None for format text."""
    try:
        return _example(values, rows, template)
    except _WrongColumn as problem:
        other = _other_format(values, rows)
        if other is None:
            raise BrokenRow(f"{problem} in {kind}.columns") from None
        raise BrokenRow(
            f"has the columns of format {other}, not of format {rows.format}: set {kind}.format to "
            f"{other}, or set the columns in {kind}.columns"
        ) from None


def _other_format(values: dict[str, Any], rows: Rows) -> str | None:
    """Return another format whose columns a row has, under their default names, or None."""
    for name, columns in COLUMNS_OF_FORMAT.items():
        needed = set(columns) - {"input"}
        if name != rows.format and needed <= values.keys():
            return name
    return None


def _example(values: dict[str, Any], rows: Rows, template: str | None) -> Example:
    columns = rows.columns
    if rows.format == "text":
        return Example(text=_text(values, columns.of("text")))
    if rows.format == "messages":
        return Example(messages=_messages(values, columns.of("messages")))
    if rows.format == "prompt-completion":
        prompt, completion = columns.of("prompt"), columns.of("completion")
        return Example(messages=_prompt_completion(values, prompt, completion))
    prompt = _text(values, columns.of("instruction"))
    further = _text(values, columns.of("input"), optional=True)
    if further:
        prompt += (ALPACA_INPUT if template == "alpaca" else "\n\n") + further
    answer = _text(values, columns.of("output"))
    return Example(messages=[_said("user", prompt), _said("assistant", answer)])


def _prompt_completion(values: dict[str, Any], prompt: str, completion: str) -> list[Message]:
    before = values.get(prompt)
    after = values.get(completion)
    asked = (
        _conversation(before, prompt)
        if isinstance(before, list)
        else [_said("user", _text(values, prompt))]
    )
    answered = (
        _conversation(after, completion)
        if isinstance(after, list)
        else [_said("assistant", _text(values, completion))]
    )
    if answered[0]["role"] != "assistant":
        raise BrokenRow(
            f"column {completion!r} starts with a message of role {answered[0]['role']}: it must "
            "start with role assistant"
        )
    return asked + answered


def _messages(values: dict[str, Any], column: str) -> list[Message]:
    if column not in values:
        raise _WrongColumn(_absent(values, column))
    messages = _conversation(values[column], column)
    while messages and messages[-1]["role"] != "assistant":
        # Messages after the last answer are not trained on.
        messages.pop()
    if not messages:
        raise BrokenRow(
            f"column {column!r} has no message of role assistant to learn from: remove the row, or "
            "add the answer"
        )
    return messages


def _conversation(value: object, column: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else _kind(value)
        raise _WrongColumn(
            f'column {column!r} is {what} instead of a list of {{"role": …, "content": …}}: '
            "write the conversation as such a list, or set the column"
        )
    return [_message(each, f"{column}[{at}]") for at, each in enumerate(value)]


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise BrokenRow(
            f"{where} is {_kind(value)} instead of an object with role and content: write it as "
            '{"role": …, "content": …}'
        )
    message = {key: each for key, each in value.items() if each is not None}
    if "from" in message and "value" in message and "role" not in message:
        raise BrokenRow(
            f"{where} has the keys from and value (ShareGPT): rename them to role and content, "
            "with the roles system, user and assistant"
        )
    role = message.get("role")
    if role not in ROLES:
        raise BrokenRow(f"{where}.role is {role!r}: use one of {', '.join(ROLES)}")
    content = message.get("content")
    if role == "assistant" and message.get("tool_calls") and content is None:
        return message
    if not isinstance(content, str):
        raise BrokenRow(f"{where}.content is {_kind(content)} instead of text: write it as text")
    if role in ("user", "assistant") and not content.strip():
        missing = "answer" if role == "assistant" else "question"
        raise BrokenRow(f"{where}.content is empty: remove the row, or add the {missing}")
    _require_text(content, f"{where}.content")
    return message


def _text(values: dict[str, Any], column: str, *, optional: bool = False) -> str:
    value = values.get(column)
    if optional and value is None:
        return ""
    if column not in values:
        raise _WrongColumn(_absent(values, column))
    if not isinstance(value, str):
        raise BrokenRow(
            f"column {column!r} is {_kind(value)} instead of text: write it as text, or remove the "
            "row"
        )
    if not optional and not value.strip():
        raise BrokenRow(f"column {column!r} is empty: remove the row, or fill it in")
    _require_text(value, f"column {column!r}")
    return value


def _require_text(text: str, where: str) -> None:
    """Raise BrokenRow for lone surrogates: JSON can contain them, but no tokenizer reads them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BrokenRow(
            f"{where} contains a lone surrogate ({text[error.start]!a} at {error.start}): write "
            "the text again as valid UTF-8"
        ) from None


def _absent(values: dict[str, Any], column: str) -> str:
    columns = ", ".join(sorted(map(str, values))[:8]) or "none"
    return f"has no column {column!r} (it has {columns}): set the column"


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    number = isinstance(value, int | float)
    return names.get(type(value), "a number" if number else f"a {type(value).__name__} value")
