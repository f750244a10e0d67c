"""The writes of a plan. Kubernetes objects are plain dicts, as the API server sends them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Create:
    """Create an object with a deterministic name, once.

    If the job already owns an object of that name, that is success; another owner's is a
    NameConflict.
    """

    object: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Apply:
    """Server-side apply an object; the operator owns the fields it names."""

    object: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Merge changes into exactly this object (uid and resourceVersion)."""

    object: Mapping[str, Any]
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Delete exactly this object (uid and resourceVersion), its dependents by ``propagation``."""

    object: Mapping[str, Any]
    propagation: Literal["Foreground", "Background"] = "Foreground"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Set the replicas of a Deployment and leave its other fields unchanged."""

    object: Mapping[str, Any]
    replicas: int


Action = Create | Apply | Patch | Delete | Scale

INDEPENDENT_KINDS = frozenset({"ConfigMap", "PersistentVolumeClaim", "NetworkPolicy"})
"""Kinds whose objects refer to no other child. A pod needs them, so they come before its owner."""


def is_independent(action: Action) -> bool:
    """Report whether an action may be executed in any order with its like."""
    return isinstance(action, Create | Apply) and action.object["kind"] in INDEPENDENT_KINDS
