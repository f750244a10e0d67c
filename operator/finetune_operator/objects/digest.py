"""Digests and versions of objects, for comparing what was observed with what is there now. Pure."""

import hashlib
import json
from typing import Any

import orjson

from finetune_operator.objects.naming import own_annotations
from finetune_operator.types import Object


def sha256(value: Any) -> str:
    """Return the SHA-256, in hex, of a value's JSON with sorted keys."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str)
    except TypeError:
        # Half of a surrogate pair, or an integer of more than 64 bits.
        text = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(text).hexdigest()


def own_version(body: Object) -> int:
    """Return a number that identifies the contents of an object of our own kinds but its status.

    A write to the status does not change it: the resourceVersion and the field managers, which the
    API server updates on every write, are left out. So are the annotations that the operator does
    not use.
    """
    metadata = {
        key: value
        for key, value in body["metadata"].items()
        if key not in ("annotations", "managedFields", "resourceVersion")
    }
    rest = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    return hash(sha256({**rest, "metadata": metadata, "annotations": own_annotations(body)}))
