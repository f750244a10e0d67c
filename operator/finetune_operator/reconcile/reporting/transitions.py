"""Changes of the status as events: completed stages, new reasons of Ready, new warnings."""

from collections.abc import Iterator

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import status_view
from finetune_operator.objects.stages import BESIDE, JOB_STAGES, STAGES
from finetune_operator.objects.status_view import NOTHING, StatusView, Values
from finetune_operator.types import Event

COMPLETED = {stage.condition: stage.completed for stage in JOB_STAGES}
"""Stage conditions, with the reason of the event when they become True."""
UNNOTICED = {stage.condition for stage in BESIDE}
"""Stage conditions whose failure changes no reason of Ready."""
EXPECTED = {stage.in_progress for stage in STAGES}
"""Reasons of Ready while a job progresses as expected, on which no one acts: no events. The event
of the completed stage implies them."""


def events(before: StatusView, status: Values) -> tuple[Event, ...]:
    """Return the events about the changes from one status to the next."""
    after = status_view.of(status)
    return (*_of_conditions(before, after), *_of_warnings(before, after))


def _of_conditions(before: StatusView, after: StatusView) -> Iterator[Event]:
    failed = "Stalled" in after.conditions
    for type_, condition in after.conditions.items():
        old = before.conditions.get(type_, NOTHING)
        if type_ in COMPLETED and condition["status"] == "True" != old.get("status"):
            yield Event(type="Normal", reason=COMPLETED[type_], message=condition["message"])
        if type_ in UNNOTICED and condition["status"] == "False" and _differs(condition, old):
            yield Event(type="Warning", reason=condition["reason"], message=condition["message"])
        if type_ == "Ready" and condition["reason"] not in (old.get("reason"), *EXPECTED):
            yield Event(
                type="Warning" if failed else "Normal",
                reason=condition["reason"],
                message=condition["message"],
            )


def _of_warnings(before: StatusView, after: StatusView) -> Iterator[Event]:
    raised = before.warnings if before.revision == after.revision else ()
    for warning in after.warnings:
        if warning not in raised:
            yield Event(type="Warning", reason=Reason.WARNING_RAISED, message=warning)


def _differs(condition: Values, old: Values) -> bool:
    return (old.get("status"), old.get("reason")) != ("False", condition["reason"])
