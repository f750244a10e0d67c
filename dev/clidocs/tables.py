"""Lists of FineTuneJobs as Tables, in pieces, as an API server returns them to ``kubectl get``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.crd.resources import FINETUNEJOB

Object = Mapping[str, Any]
CONDITION = re.compile(r"\.status\.conditions\[\?\(@\.type==\"(\w+)\"\)\]\.(\w+)")


def table(items: Sequence[Object], query: Mapping[str, str]) -> dict[str, Any]:
    """Return the rows of a list that a query asks for. The token is the number of the first row."""
    begin = int(query.get("continue", 0))
    end = begin + int(query.get("limit", len(items)))
    metadata = {"continue": str(end), "remainingItemCount": len(items) - end}
    columns = ["Name", *(column.name for column in FINETUNEJOB.columns)]
    return {
        "kind": "Table",
        "metadata": metadata if end < len(items) else {},
        "columnDefinitions": [{"name": column} for column in columns],
        "rows": [_row(object_) for object_ in items[begin:end]],
    }


def _row(object_: Object) -> dict[str, Any]:
    cells = (_value(object_, column.path) for column in FINETUNEJOB.columns)
    metadata = object_["metadata"]
    return {"cells": [metadata["name"], *cells], "object": {"metadata": metadata}}


def _value(object_: Object, path: str) -> Any:
    if match := CONDITION.fullmatch(path):
        for condition in (object_.get("status") or {}).get("conditions") or ():
            if condition["type"] == match[1]:
                return condition.get(match[2])
        return None
    value: Any = object_
    for name in path.strip(".").split("."):
        value = (value or {}).get(name)
    return value
