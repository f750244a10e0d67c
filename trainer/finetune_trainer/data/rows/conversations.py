"""Reads the messages and tools of a row, in the formats of OpenAI and ShareGPT.

The result has the form that chat templates and the endpoint expect: the roles and keys of OpenAI,
the arguments of tool calls as objects, and no nulls, which Parquet files have wherever another row
has a key.
"""

import json
from collections.abc import Mapping
from typing import Any

from finetune_api.safety import untrusted_json
from finetune_api.v1alpha1.data.rows import Role, Rows
from finetune_trainer.data.rows import formats

CALL = "function_call"
"""Role of ShareGPT whose text is a tool call as JSON, or a list of them."""
Message = dict[str, Any]


class BrokenRow(ValueError):
    """A row cannot be trained on. The text has column and remediation; the caller adds the row."""


class WrongColumn(BrokenRow):
    """A column is missing or wrong; the caller adds the field that names columns."""


def messages_of(value: object, column: str, rows: Rows) -> tuple[list[Message], frozenset[int]]:
    """Return the messages of a column, and the positions of those with the weight 0."""
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind_of(value)
        role, content = formats.keys(rows)
        raise WrongColumn(
            f'column {column!r} is {what} instead of a list of {{"{role}": …, "{content}": …}}: '
            "write the conversation as a list in this form, or set the column of the conversation"
        )
    messages, silent = [], set()
    for at, entry in enumerate(value):
        message = _message(entry, f"{column}[{at}]", rows)
        weight = message.pop("weight", 1)
        if message["role"] == "assistant" and _is_silent(weight, f"{column}[{at}]"):
            silent.add(at)
        messages.append(message)
    return messages, frozenset(silent)


def tools_of(values: Mapping[str, Any], column: str) -> list[dict[str, Any]] | None:
    """Return the tools of a row; None if the row has none."""
    tools = _parsed(
        values.get(column), f"column {column!r}", "a list of functions in the OpenAI format"
    )
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list):
        raise BrokenRow(
            f"column {column!r} is {kind_of(tools)} instead of a list of functions in the OpenAI "
            "format: write the tools as a list, or as a list in JSON text"
        )
    return [_tool(tool, f"{column}[{at}]") for at, tool in enumerate(tools)]


def require_text(text: str, where: str) -> None:
    """Raise BrokenRow for lone surrogates: JSON can contain them, but no tokenizer reads them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BrokenRow(
            f"{where} contains a lone surrogate ({text[error.start]!a}, character {error.start}), "
            "which is not valid in UTF-8: replace or remove this character"
        ) from None


def kind_of(value: object) -> str:
    """Return the type of a JSON value in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    number = isinstance(value, int | float)
    return names.get(type(value), "a number" if number else f"a {type(value).__name__} value")


def _is_silent(weight: object, where: str) -> bool:
    """Report whether a message has the weight 0: the loss does not cover it."""
    if weight not in (0, 1):
        raise BrokenRow(
            f"{where}.weight is {weight!r}: use 1 (the loss covers the message) or 0 (it does not)"
        )
    return weight == 0


def _message(value: object, where: str, rows: Rows) -> Message:
    role_key, content_key = formats.keys(rows)
    if not isinstance(value, dict):
        raise BrokenRow(
            f"{where} is {kind_of(value)} instead of an object with {role_key} and {content_key}: "
            f'write it as {{"{role_key}": …, "{content_key}": …}}'
        )
    message = {key: field for key, field in value.items() if field is not None}
    if role_key not in message and any(role in message for role, _ in formats.KEYS.values()):
        raise WrongColumn(
            f"{where} has no key {role_key!r}: set mapping.role to the key of the role, or set the "
            "column of the conversation"
        )
    named = message.pop(role_key, None)
    role = _role(named, f"{where}.{role_key}", rows)
    content = message.pop(content_key, None)
    if "function_call" in message:
        raise BrokenRow(
            f"{where} has the key function_call, which OpenAI has replaced by tool_calls: write "
            "the call as tool_calls"
        )
    where_content = f"{where}.{content_key}"
    calls = message.pop("tool_calls", None)
    if named == CALL and role == "assistant":
        calls, content = _parsed(content, where_content, "a tool call"), None
        calls = calls if isinstance(calls, list) else [calls]
    message |= {"role": role, "content": _content(content, where_content, optional=bool(calls))}
    if calls:
        message["tool_calls"] = _calls(calls, f"{where}.tool_calls")
    elif role in ("user", "assistant") and not message["content"].strip():
        missing = "answer" if role == "assistant" else "question"
        raise BrokenRow(f"{where_content} is empty: remove the row, or add the {missing}")
    return message


def _role(name: object, where: str, rows: Rows) -> Role:
    standard = formats.SHAREGPT_ROLES if rows.format == "sharegpt" else formats.ROLES
    roles = {**standard, **(rows.mapping.roles or {})}
    if not isinstance(name, str) or name not in roles:
        raise BrokenRow(
            f"{where} is {name!r}, which is not a known role: use one of {', '.join(roles)}, or "
            f"add {name!r} to mapping.roles"
        )
    return roles[name]


def _content(content: object, where: str, *, optional: bool) -> str:
    """Return the text of a message. Parts of text, as OpenAI allows them, are joined."""
    if content is None and optional:
        # As vLLM renders a request that has tool calls and no text.
        return ""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and "text" in part]
        if len(parts) < len(content) or any(part.get("type") != "text" for part in parts):
            raise BrokenRow(
                f"{where} has parts that are not text, but a job trains on text only: remove the "
                "row"
            )
        content = "\n".join(str(part["text"]) for part in parts)
    if not isinstance(content, str):
        raise BrokenRow(f"{where} is {kind_of(content)} instead of text: write it as text")
    require_text(content, where)
    return content


def _calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise BrokenRow(f"{where} is {kind_of(calls)} instead of a list: write it as a list")
    return [_call(call, f"{where}[{at}]") for at, call in enumerate(calls)]


def _call(call: object, where: str) -> dict[str, Any]:
    """Return a tool call in the form of OpenAI, with its arguments as an object."""
    fields = without_nulls(call) if isinstance(call, dict) else None
    function = fields.get("function", fields) if fields else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BrokenRow(
            f"{where} is not a tool call: write it as "
            '{"type": "function", "function": {"name": …, "arguments": …}}'
        )
    # Arguments that are text have no nulls of Parquet, so their nulls are kept.
    arguments = _parsed(function.get("arguments", {}), f"{where}.function.arguments", "an object")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise BrokenRow(
            f"{where}.function.arguments is {kind_of(arguments)} instead of an object: write the "
            "arguments as an object, or as an object in JSON text"
        )
    require_text(json.dumps([function["name"], arguments], ensure_ascii=False), where)
    result = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    identity = (fields or {}).get("id")
    return result if identity is None else {"id": str(identity), **result}


def _tool(tool: object, where: str) -> dict[str, Any]:
    """Return a tool in the form of OpenAI; a bare function is wrapped."""
    fields = without_nulls(tool) if isinstance(tool, dict) else {}
    function = fields.get("function", fields)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BrokenRow(
            f"{where} is not a function in the OpenAI format: write it as "
            '{"type": "function", "function": {"name": …, "description": …, "parameters": …}}'
        )
    schema = _parsed(function.get("parameters"), f"{where}.function.parameters", "a JSON Schema")
    if not isinstance(schema, dict | None):
        raise BrokenRow(
            f"{where}.function.parameters is {kind_of(schema)} instead of a JSON Schema: write it "
            "as an object"
        )
    function = {**function, **({} if schema is None else {"parameters": schema})}
    require_text(json.dumps(function, ensure_ascii=False), where)
    return {"type": "function", "function": function}


def _parsed(value: object, where: str, expected: str) -> Any:
    """Return a value, parsed if it is JSON text; None for an empty text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return untrusted_json.parse(value)
    except ValueError as error:
        problem = str(error)
    raise BrokenRow(f"{where} is text, but not valid JSON ({problem}): write {expected} as JSON")


def without_nulls(value: Any) -> Any:
    """Return a value without the keys of objects whose value is null, at every depth."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
