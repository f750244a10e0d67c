"""Conditions of a Kubernetes object's status."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_operator.types import Object


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
