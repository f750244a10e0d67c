"""Which plans are confirmed by a live read and planned again before they are executed. Pure.

A plan is made from the cache, which may be older than the cluster by any number of changes of any
kind. Most writes are safe nevertheless: a status is written with the resourceVersion of its job, an
object is created under a name that only one object can have, and applied or patched in the version
that was observed. The other cases are here; each names the kinds that are read. The FineTuneJob is
not one of them if the plan writes its status: that write fails if the job has changed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects import naming
from finetune_operator.objects.stages import is_job_stage, needs_gpu
from finetune_operator.telemetry.job_metrics import ready_reason
from finetune_operator.types import LISTS, Create, Delete, Object, Plan, Snapshot

ALL_KINDS = frozenset({FINETUNEJOB, *LISTS})
_OF_STAGES = frozenset({"Job", "Pod", naming.VOLUME})
_OF_TRAINERS = frozenset({"Job", "Pod"})
_LATER = {
    "Starting": ("Starting", "Running", "Completed"),
    "Running": ("Running", "Completed"),
    "Completed": ("Completed",),
}
"""Outcomes of the same attempt that positive evidence proves, by the outcome before."""


class Confirmation(NamedTuple):
    """The kinds that a plan must be confirmed by, and why."""

    cause: str
    kinds: frozenset[str]


NONE = Confirmation("", frozenset())


def of(snapshot: Snapshot, plan: Plan, *, unfenced: bool) -> Confirmation:
    """Return the confirmation that a plan needs.

    unfenced: whether an action of the plan changes anything, but no write of the status precedes
    it, which would fail if the job had changed.
    """
    job = frozenset({FINETUNEJOB} if unfenced else ())
    if any(isinstance(action, Delete) for action in plan.actions):
        return Confirmation("delete", ALL_KINDS)
    status = snapshot.job.get("status") or {}
    before, after = _revisions(status), _revisions(plan.status)
    if before.keys() - after.keys():
        return Confirmation("revision", ALL_KINDS)
    if any(_ended(before[name], after[name]) for name in before):
        return Confirmation("attempt", _OF_STAGES)
    if ready_reason(plan.status) == Reason.VOLUME_LOST != ready_reason(status):
        # The cache may contain the claim as it was before the job owned it.
        return Confirmation("volume", frozenset({naming.VOLUME}) | job)
    for action in plan.actions:
        if isinstance(action, Create) and action.object["kind"] == "Job":
            stage = naming.label(action.object, naming.STAGE)
            if needs_gpu(stage):
                return Confirmation(str(stage), _OF_TRAINERS | job)
    return Confirmation("job", job) if unfenced else NONE


def _revisions(status: Object) -> dict[str, Object]:
    return {each["revision"]: each for each in status.get("revisions") or ()}


def _ended(before: Object, after: Object) -> bool:
    """Report whether an attempt of a revision ends without a result that reports completion.

    That is a conclusion from absence: of its Job, its volume, its pod, or the pod's result.
    """
    now = {(each["stage"], each.get("build")): each for each in _attempts(after)}
    for old in _attempts(before):
        new = now.get((old["stage"], old.get("build")))
        if old.get("outcome") not in _LATER:
            continue
        if new is None or new["attempt"] != old["attempt"]:
            return True
        if new["outcome"] not in _LATER[old["outcome"]]:
            return True
    return False


def _attempts(revision: Object) -> Iterator[Any]:
    return (each for each in revision.get("stages") or () if is_job_stage(each.get("stage")))
