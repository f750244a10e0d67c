"""The color of a state: whether it is good, runs, waits, or needs the user."""

from collections.abc import Mapping
from typing import Any

from finetune_api.crd.remediations.failures import FAILED
from finetune_api.crd.remediations.waiting import PROGRESS
from finetune_cli.cluster.stages import WAITING_FOR_NODE

GOOD, RUNNING, WAITING, BAD = "good", "running", "waiting", "bad"
OUTCOMES = {
    "Completed": GOOD,
    "Serving": GOOD,
    "Verified": GOOD,
    "Passed": GOOD,
    "Better": GOOD,
    "Failed": BAD,
    "Worse": BAD,
    "Stopped": WAITING,
    WAITING_FOR_NODE: WAITING,
}
"""The kinds of outcomes of stages, verifications and evaluations."""
_PROGRESS = frozenset(map(str, PROGRESS.texts))
_FAILED = frozenset(map(str, FAILED.texts))


def of_reason(reason: str, *, ready: bool, stalled: bool = False) -> str:
    """Return the kind of the reason of the condition Ready."""
    if ready:
        return GOOD
    if stalled or reason in _FAILED:
        return BAD
    return RUNNING if reason in _PROGRESS else WAITING


def number(value: Any) -> float | None:
    """Return a number of a status, None if it is not a finite one from 0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None


def distance(verification: Mapping[str, Any]) -> str:
    """Return the distance of a verification and its limit, empty if one of them is unknown."""
    texts = [verification.get(name) for name in ("distance", "tolerance")]
    if None in map(number, texts):
        return ""
    return f"{texts[0]} of {texts[1]} nats"
