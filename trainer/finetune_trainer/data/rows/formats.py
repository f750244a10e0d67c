"""Detects the format of a dataset by the columns of its first row.

``prepare`` detects the format once and publishes it with the dataset. With an explicit format, it
detects the format nevertheless, so that writing ``auto`` later is not a change.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from finetune_api.v1alpha1.data.rows import (
    AUTO,
    COLUMNS_OF_FORMAT,
    CONVERSATIONS,
    Format,
    Role,
    Rows,
)
from finetune_api.v1alpha1.data.statistics import FormatRecord
from finetune_api.v1alpha1.sources import Kind
from finetune_trainer.data.rows.readers import Row
from finetune_trainer.errors import DatasetInvalid

OPTIONAL = frozenset({"input", "tools"})
"""Parts of a row that a dataset can omit."""
COLUMNS_OF_CONVERSATIONS = ("messages", "conversations")
"""Names of the column with the conversation, if the spec names none; the first one found counts."""
KEYS: Mapping[str, tuple[str, str]] = {
    "messages": ("role", "content"),
    "sharegpt": ("from", "value"),
}
"""Keys of a message that hold its role and its text, by format."""
ROLES: Mapping[str, Role] = {role: role for role in get_args(Role)}
SHAREGPT_ROLES: Mapping[str, Role] = {
    **ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def conversation_column(values: Mapping[str, Any], rows: Rows) -> str:
    """Return the name of the column with the conversation, whether the row has it or not."""
    standard = "conversations" if rows.format == "sharegpt" else "messages"
    if rows.columns.messages is not None or standard in values:
        return rows.columns.messages or standard
    return next((name for name in COLUMNS_OF_CONVERSATIONS if name in values), standard)


def record(kind: Kind, rows: Rows, first: Row | None) -> FormatRecord:
    """Return the format of a dataset. first: its first row, None if the dataset is empty.

    Raise DatasetInvalid if the format must be detected and is unknown.
    """
    detected = None if first is None else detect(first.values, rows)
    if rows.format != AUTO:
        return FormatRecord(
            dataset=kind, format=rows.format, requested=rows.format, detected=detected
        )
    if first is None:
        raise DatasetInvalid(f"the dataset has no rows: check {kind}.source and {kind}.split")
    if detected is None:
        columns = ", ".join(sorted(map(str, first.values))[:8]) or "none"
        raise DatasetInvalid(
            f"the format of {kind} cannot be detected from the columns of {first.place} "
            f"({columns}): set {kind}.format. If your column names differ from those of the "
            f"format, also set {kind}.columns"
        )
    return FormatRecord(dataset=kind, format=detected, requested=AUTO, detected=detected)


def detect(values: Mapping[str, Any], rows: Rows) -> Format | None:
    """Return the first format that a row has the columns of, or None."""
    named = {part for part, column in rows.columns if column is not None}
    for name, parts in COLUMNS_OF_FORMAT.items():
        if named <= set(parts) and _has_columns(values, rows, name, parts):
            return name
    return None


def _has_columns(values: Mapping[str, Any], rows: Rows, name: Format, parts: Sequence[str]) -> bool:
    if name not in CONVERSATIONS:
        return all(part in OPTIONAL or rows.columns.of(part) in values for part in parts)
    assumed = rows.model_copy(update={"format": name})
    turns = values.get(conversation_column(values, assumed))
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        return False
    role, content = keys(assumed)
    return role in turns[0] and (content in turns[0] or name == "messages")


def keys(rows: Rows) -> tuple[str, str]:
    """Return the keys of a message that hold its role and its text."""
    role, content = KEYS[rows.format]
    return rows.mapping.role or role, rows.mapping.content or content
