"""Texts for the columns of ``kubectl get``: progress, remaining time, and a short message.

A column has the text of what happens now. Without a new measurement, and while the job waits, is
suspended or has failed, the last progress is kept; only the remaining time is removed. A serving
pod that waits for a node has loaded nothing, so its progress is not kept.
"""

import math
from collections.abc import Mapping
from typing import Any

from finetune_api.durations import duration
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.stages import PIPELINE, JobStage
from finetune_operator.reconcile.conditions import Position

SUMMARY_LENGTH = 240
"""Characters of the message in the last column of ``kubectl get -o wide``: enough for the cause and
what to change, without the quoted message of another component."""
LONGEST_WORD = 16
"""Characters of a word that is left out rather than cut."""
LOADING = ("load", "verify")
"""Texts of a serving pod that has a node."""
LONGEST_ETA = 100 * 86_400 - 1
"""Seconds; a longer remaining time would not fit the column."""
PHASES = {"saving": "save", "reference": "reference"}
"""Texts for the phases of a train pod after the last step."""


def columns(
    snapshot: IndexedSnapshot,
    revision: str,
    position: Position,
    *,
    preparation: Mapping[str, Any],
    training: Mapping[str, Any],
) -> dict[str, str | None]:
    """Return ``progress``, ``eta`` and ``summary`` of the status.

    preparation, training: these parts of the status.
    """
    texts: dict[str, str | None] = {"summary": summary(position.message)}
    if position.state == "done":
        return texts
    previous = snapshot.previous
    progress = previous.progress if previous.is_about(revision) else None
    if position.state != "active":
        return {**texts, "progress": progress}
    stage = next((stage for stage in PIPELINE if stage.in_progress == position.reason), None)
    if stage is not None:
        text, seconds = _of_stage(snapshot, stage, preparation if stage.reads_sources else training)
    elif position.reason in (Reason.STARTING, Reason.RESTARTING):
        text, seconds = _loading(snapshot), None
    else:
        loads = progress is not None and progress.split(" ")[0] in LOADING
        return {**texts, "progress": None if loads else progress}
    same = previous.conditions.get("Ready", {}).get("reason") == position.reason
    if progress is not None and same and snapshot.progress is None and snapshot.loaded is None:
        return {**texts, "progress": progress, "eta": previous.eta}
    return {**texts, "progress": text, "eta": remaining(seconds)}


def _of_stage(
    snapshot: IndexedSnapshot, stage: JobStage, recorded: Mapping[str, Any]
) -> tuple[str, float | None]:
    """Return the text of a stage that runs, and its remaining seconds.

    recorded: the part of the status that keeps the last measurement of the stage, if it has one.
    """
    progress = snapshot.progress
    if stage.gpu and progress is not None and progress.phase in PHASES:
        return PHASES[progress.phase], None
    if stage.reads_sources or stage.gpu:
        return _percent(stage.name, recorded.get("progressPercent")), recorded.get("etaSeconds")
    if progress is None or progress.ratio is None:
        return stage.name, None
    return _percent(stage.name, int(100 * progress.ratio)), progress.eta_seconds


def _loading(snapshot: IndexedSnapshot) -> str:
    """The verifier reads the files while vLLM loads them, and then waits for vLLM."""
    if snapshot.loaded is None:
        return LOADING[0]
    if snapshot.loaded >= 1:
        return LOADING[1]
    return _percent(LOADING[0], int(100 * snapshot.loaded))


def _percent(stage: str, percent: int | None) -> str:
    return stage if percent is None else f"{stage} {min(100, max(0, percent))}%"


def remaining(seconds: float | None) -> str | None:
    """Return a remaining time for people, such as ``4m10s``; None if it is unknown or 0."""
    if seconds is None or not math.isfinite(seconds) or seconds < 1:
        return None
    return duration(min(seconds, LONGEST_ETA))


def summary(message: str) -> str:
    """Return the beginning of a message, shortened to ``SUMMARY_LENGTH`` characters."""
    text = message.rstrip(".")
    if len(text) <= SUMMARY_LENGTH:
        return text
    start = text[: SUMMARY_LENGTH - 1]
    words = start.rsplit(" ", 1)[0]
    # A word as long as an address is worth more than a clean end.
    return (words if len(start) - len(words) <= LONGEST_WORD else start).rstrip(" ,;:") + "…"
