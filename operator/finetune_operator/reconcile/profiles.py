"""The planner of FineTuneProfiles: it writes their status, and nothing else. Pure."""

from datetime import datetime

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import conditions
from finetune_operator.objects.conditions import Status
from finetune_operator.revisions.profiles import parse, required_of_jobs
from finetune_operator.types import UNCONFIRMED, Confirmation, Object, Plan, ProfileSnapshot

VALID = "Valid"


def plan(snapshot: ProfileSnapshot, *, now: datetime) -> Plan:
    """Return the plan of a reconcile of a profile: whether jobs can use it."""
    profile = parse(snapshot.profile, snapshot.settings)
    if (problem := profile.problem) is not None:
        return _status(snapshot, "False", problem.reason, problem.message, now)
    message = "Jobs can use the profile."
    if required := required_of_jobs(profile):
        message = (
            "Jobs can use the profile only if they set fields whose defaults a limit forbids. Set "
            f"them in spec.defaults: {' '.join(required)}"
        )
    return _status(snapshot, "True", Reason.VALID, message, now)


def confirmation(snapshot: ProfileSnapshot, plan: Plan) -> Confirmation:
    """Return that no plan needs a live read: the write of the status has a precondition."""
    return UNCONFIRMED


def report(
    snapshot: ProfileSnapshot,
    *,
    reason: Reason,
    message: str,
    now: datetime,
    planned: Object | None = None,
    rejected: Object | None = None,
) -> Plan:
    """Return a plan whose condition reports an error. A profile owns nothing to reject."""
    return _status(snapshot, "Unknown", reason, message, now)


def _status(
    snapshot: ProfileSnapshot, status: Status, reason: Reason, message: str, now: datetime
) -> Plan:
    generation = snapshot.profile["metadata"]["generation"]
    condition = conditions.written(
        VALID,
        status,
        reason,
        message,
        before=conditions.get(snapshot.profile, VALID),
        generation=generation,
        now=now,
    )
    return Plan(status={"observedGeneration": generation, "conditions": [condition]})
