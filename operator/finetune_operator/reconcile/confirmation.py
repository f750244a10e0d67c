"""Which plans are confirmed by a live read and planned again before they are executed. Pure.

A plan is made from the cache, which may be older than the cluster by any number of changes of any
kind. Most writes are safe nevertheless: a status is written with the resourceVersion of its job, an
object is created under a name that only one object can have, and applied or patched in the version
that was observed. The other cases are here; each names the kinds that are read. The reconciler
adds the FineTuneJob if no write of the status precedes the actions.
"""

from finetune_api import KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Create, Delete
from finetune_operator.objects import naming, status_view
from finetune_operator.objects.stages import needs_gpu
from finetune_operator.objects.status_view import RevisionView
from finetune_operator.types import LISTS, UNCONFIRMED, Confirmation, Plan, Snapshot

ALL_KINDS = frozenset({KIND, *LISTS})
_OF_STAGES = frozenset({"Job", "Pod", naming.VOLUME})
_OF_SERVING = frozenset({"Deployment", "Pod", naming.VOLUME})
_LATER = {
    "Starting": ("Starting", "Running", "Completed"),
    "Running": ("Running", "Completed"),
    "Completed": ("Completed",),
}
"""Outcomes of the same attempt that positive evidence proves, by the outcome before."""


def confirmation(snapshot: Snapshot, plan: Plan) -> Confirmation:
    """Return the confirmation that a plan needs."""
    if any(isinstance(action, Delete) for action in plan.actions):
        return Confirmation("delete", ALL_KINDS)
    old, new = status_view.of_job(snapshot.job), status_view.of(plan.status)
    before, after = (
        {revision.name: revision for revision in view.revisions()} for view in (old, new)
    )
    if before.keys() - after.keys():
        return Confirmation("revision", ALL_KINDS)
    if any(_ended(before[name], after[name]) for name in before):
        return Confirmation("attempt", _OF_STAGES)
    if new.ready_reason == Reason.VOLUME_LOST != old.ready_reason:
        # The cache may contain the claim as it was before the job owned it.
        return Confirmation("volume", frozenset({naming.VOLUME}))
    if old.idle_since is None and new.idle_since is not None:
        # Pods whose volume was deleted could not start again.
        return Confirmation("idle", _OF_SERVING)
    for action in plan.actions:
        if isinstance(action, Create) and action.object["kind"] == "Job":
            stage = naming.label(action.object, naming.STAGE)
            if needs_gpu(stage):
                return Confirmation(str(stage), _OF_STAGES)
    return UNCONFIRMED


def _ended(before: RevisionView, after: RevisionView) -> bool:
    """Report whether an attempt of a revision ends without a result that reports completion.

    That is a conclusion from absence: of its Job, its volume, its pod, or the pod's result.
    """
    now = {(attempt.stage, attempt.build): attempt for attempt in after.attempts}
    for old in before.attempts:
        if not old.runs_as_job or old.outcome not in _LATER:
            continue
        new = now.get((old.stage, old.build))
        if new is None or new.number != old.number or new.outcome not in _LATER[old.outcome]:
            return True
    return False
