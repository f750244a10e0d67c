"""What a failed test leaves behind: the objects of its namespace, and the log of its operator."""

from collections.abc import Mapping
from typing import Any

import yaml
from tests.support.api_server.controlplane import ApiError
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import OperatorProcess

KINDS = ("finetunejobs", "jobs", "pods", "persistentvolumeclaims")
LINES = 60
"""Of the end of a log."""


def sections(fixtures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return titles and texts about the fixtures of a failed test."""
    found = []
    place, operator = fixtures.get("place"), fixtures.get("operator")
    if isinstance(place, Namespace):
        found += [(f"{kind} of the namespace", _objects(place, kind)) for kind in KINDS]
    if isinstance(operator, OperatorProcess):
        lines = operator.log.read_text().splitlines()
        found.append(("end of the operator's log", "\n".join(lines[-LINES:])))
    return found


def _objects(place: Namespace, kind: str) -> str:
    """Return how far the objects of a kind are, as YAML."""
    try:
        return yaml.safe_dump([_state(each) for each in place.items(kind)])
    except (ApiError, OSError) as error:
        return f"they cannot be read: {error}"


def _state(each: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("name", "uid", "creationTimestamp", "deletionTimestamp", "finalizers")
    metadata = {name: each["metadata"][name] for name in shown if name in each["metadata"]}
    node = each.get("spec", {}).get("nodeName")
    return {"metadata": metadata, "nodeName": node, "status": each.get("status")}
