"""Changes of the status as events: completed stages, new reasons of Ready, new warnings."""

from collections.abc import Iterator

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects.stages import PIPELINE, STAGES
from finetune_operator.objects.status_view import NOTHING, StatusView
from finetune_operator.types import Event

COMPLETED = {stage.condition: stage.completed for stage in PIPELINE}
"""Stage conditions, with the reason of the event when they become True."""
EXPECTED = {stage.in_progress for stage in STAGES}
"""Reasons of Ready while a job progresses as expected, on which no one acts: no events. The event
of the completed stage implies them."""


def events(before: StatusView, after: StatusView) -> tuple[Event, ...]:
    """Return the events about the changes from one status to the next."""
    return (*_of_conditions(before, after), *_of_warnings(before, after))


def _of_conditions(before: StatusView, after: StatusView) -> Iterator[Event]:
    failed = "Stalled" in after.conditions
    for type_, condition in after.conditions.items():
        old = before.conditions.get(type_, NOTHING)
        if type_ in COMPLETED and condition["status"] == "True" != old.get("status"):
            yield Event(type="Normal", reason=COMPLETED[type_], message=condition["message"])
        if type_ == "Ready" and condition["reason"] not in (old.get("reason"), *EXPECTED):
            yield Event(
                type="Warning" if failed else "Normal",
                reason=condition["reason"],
                message=condition["message"],
            )


def _of_warnings(before: StatusView, after: StatusView) -> Iterator[Event]:
    known = before.warnings if before.revision == after.revision else ()
    for warning in after.warnings:
        if warning not in known:
            yield Event(type="Warning", reason=Reason.WARNING_RAISED, message=warning)
