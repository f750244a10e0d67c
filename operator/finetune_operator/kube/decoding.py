"""Decodes lists and watch events to the fields that the cache keeps (``compact.used_fields``).

Most of the text of an object is never used: managed fields, environment variables, probes. msgspec
skips such fields without creating Python objects for them. Decoding a list of pods takes a seventh
of the time of a complete decoding, and much less memory.

A text without the expected types is decoded completely.
"""

from functools import cache
from typing import Any, TypedDict

import msgspec

from finetune_operator.kube.connection import Decode, decoded
from finetune_operator.objects.compact.used_fields import FIELDS, Fields, metadata_fields

_STATUS: Fields = {"code": None, "message": None}
"""Fields of the object in a watch event of the type ERROR."""


@cache
def list_decoder(kind: str, *, metadata_only: bool) -> Decode:
    """Return the decoder of a page of a list."""
    fields = _fields(kind, metadata_only=metadata_only)
    if fields is None:
        return decoded
    return _decoder({"metadata": {"resourceVersion": None, "continue": None}, "items": [fields]})


@cache
def event_decoder(kind: str, *, metadata_only: bool) -> Decode:
    """Return the decoder of a watch event."""
    fields = _fields(kind, metadata_only=metadata_only)
    if fields is None:
        return decoded
    return _decoder({"type": None, "object": {**fields, **_STATUS}})


def _fields(kind: str, *, metadata_only: bool) -> dict[str, Any] | None:
    """Return the fields that are used of a kind, None for all of them."""
    if not metadata_only and kind not in FIELDS:
        return None
    return {"metadata": metadata_fields(kind), **({} if metadata_only else FIELDS[kind])}


def _decoder(fields: Fields) -> Decode:
    typed = msgspec.json.Decoder(_type_of(fields))

    def decode(text: bytes) -> dict[str, Any]:
        try:
            document = typed.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decoded(text)
        return document if isinstance(document, dict) else decoded(text)

    return decode


def _type_of(fields: Any) -> Any:
    """Return the type of a value: an object with some fields, a list of such, or anything."""
    if fields is None:
        return Any
    if isinstance(fields, list):
        return list[_type_of(fields[0])] | None  # type: ignore[misc]
    types = {name: _type_of(inner) for name, inner in fields.items()}
    return TypedDict("Object", types, total=False) | None  # type: ignore[operator]
