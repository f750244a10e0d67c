"""Digests of a spec's parts, and the names of revisions and builds that are derived from them.

A name is the beginning of a digest, because it is a part of the names of objects. Two digests may
begin with the same digits, so code compares digests and never names.
"""

import hashlib
import json
from typing import Any

from finetune_api.base import Values
from finetune_api.markers import ApiModel, Edit, extra_of

NAME_DIGITS = 8


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hex."""
    return text_digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def name_of(digest: str) -> str:
    """Return the name of the revision or build with a digest."""
    return digest[:NAME_DIGITS]


def part_of(model: ApiModel, edit: Edit) -> Values:
    """Return the fields of one edit class in their groups, without nulls and empty groups.

    Fields that are not set are left out: a field that an upgrade added does not belong to a
    revision that was resolved before the upgrade. A field that has lost its built-in value has that
    value here, as in the revisions that were resolved with it.
    """
    part: Values = {}
    written = model.model_fields_set
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if value is None:
            value = extra_of(info).former
        elif name not in written:
            continue
        if value is None:
            continue
        alias = info.alias or name
        if isinstance(value, ApiModel) and not value.atomic:
            if inner := part_of(value, edit):
                part[alias] = inner
        elif isinstance(value, list) and _is_of_groups(value):
            parts = [part_of(group, edit) for group in value]
            if any(parts):
                part[alias] = parts
        elif extra_of(info).edit is edit:
            part[alias] = _plain(value)
    return part


def _is_of_groups(entries: list[Any]) -> bool:
    return any(isinstance(entry, ApiModel) and not entry.atomic for entry in entries)


def _plain(value: Any) -> Any:
    if isinstance(value, ApiModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
