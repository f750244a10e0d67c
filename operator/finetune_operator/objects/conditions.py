"""Conditions of a Kubernetes object's status."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from finetune_api.safety.printable import printable
from finetune_operator.types import Object

MAX_MESSAGE = 4096
"""Characters of a condition's message, which may quote a pod or another component."""

Status = Literal["True", "False", "Unknown"]


def timestamp(now: datetime) -> str:
    """Return a time as Kubernetes writes it, in UTC and whole seconds."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def get(child: Object, type_: str) -> Mapping[str, Any]:
    """Return an object's condition of a type, an empty mapping if it has none."""
    condition: Mapping[str, Any]
    for condition in child.get("status", {}).get("conditions", ()):
        if condition["type"] == type_:
            return condition
    return {}


def is_true(child: Object, type_: str) -> bool:
    """Report whether an object's condition of a type is True."""
    return get(child, type_).get("status") == "True"


def written(
    type_: str,
    status: Status,
    reason: str,
    message: str,
    *,
    before: Mapping[str, Any],
    generation: int,
    now: datetime,
) -> dict[str, Any]:
    """Return a condition, which keeps its transition time while its status stays the same.

    before: the present condition of the type, an empty mapping if there is none.
    """
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": type_,
        "status": status,
        "reason": str(reason),
        "message": printable(message)[:MAX_MESSAGE],
        "observedGeneration": generation,
        "lastTransitionTime": since or timestamp(now),
    }
