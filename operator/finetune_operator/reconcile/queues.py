"""The queue of a job that names one: whether it exists, its nodes, and the place of the train Job.

Nothing of it is known without rights on the objects of Kueue (``snapshot.queues``).
"""

from collections.abc import Mapping
from dataclasses import replace

from finetune_api.v1alpha1.profile import PROFILE_KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator import delays
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.queues.values import Place, Queues
from finetune_operator.reconcile.conditions import Position
from finetune_operator.reconcile.diagnosis.blocker import Blocker
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object

MOST_NAMED = 5
"""LocalQueues that a message names."""


def flavors(queues: Queues | None, target: TargetRevision) -> tuple[Mapping[str, str], ...]:
    """Return the node labels of the flavors of a job's queue; empty if they are not known."""
    name = target.resolved.spec.queue_name
    queue = None if queues is None or name is None else queues.local.get(name)
    return () if queue is None else queue.flavors


def missing(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Position | None:
    """Return the position of a job whose queue does not exist, None if its stages can start.

    Data is not prepared for training that no queue will admit.
    """
    if ledger.is_trained(target.revision) or (text := _missing(snapshot, target)) is None:
        return None
    return Position(
        state="stalled",
        reason=Reason.QUEUE_NOT_FOUND,
        message=text,
        # Nothing reports the changes of queues.
        requeue_after=delays.QUEUE_MISSING,
    )


def explained(
    blocker: Blocker | None, snapshot: IndexedSnapshot, target: TargetRevision, job: Object
) -> Blocker | None:
    """Return the blocker of a Job, with its place in the queue, or with the queue that is gone."""
    if blocker is None or blocker.reason not in (Reason.QUEUED, Reason.PREEMPTED):
        return blocker
    if (text := _missing(snapshot, target)) is not None:
        return replace(blocker, reason=Reason.QUEUE_NOT_FOUND, message=text, waits=False)
    place = _place(snapshot, job)
    if place is None:
        return blocker
    text = f"It is number {place.position} of {place.waiting} in the queue."
    return replace(blocker, message=f"{blocker.message} {text}")


def position_of(snapshot: IndexedSnapshot, position: Position) -> int | None:
    """Return ``status.queuePosition`` of a job that waits in a queue, None for any other job."""
    if position.reason not in (Reason.QUEUED, Reason.PREEMPTED):
        return None
    places = (_place(snapshot, job.object) for job in snapshot.jobs if not job.ended)
    return next((place.position for place in places if place is not None), None)


def _missing(snapshot: IndexedSnapshot, target: TargetRevision) -> str | None:
    """Return the message about a queue that does not exist in the namespace of the job."""
    queues, name = snapshot.queues, target.resolved.spec.queue_name
    if queues is None or name is None or name in queues.local:
        return None
    namespace, profile = snapshot.job["metadata"]["namespace"], target.config.profile
    if "queueName" in snapshot.job["spec"]:
        field, remediation = "spec.queueName", "Set spec.queueName to an existing one"
    elif profile is not None:
        field = f"queueName of {PROFILE_KIND} {profile.name}"
        remediation = "Set spec.queueName or spec.profile to another one"
    else:
        field, remediation = "defaults.queueName of the chart", "Set spec.queueName"
    names = sorted(queues.local)
    some = ", ".join(names[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
    return (
        f"{field}: there is no LocalQueue {name} in namespace {namespace} "
        f"({f'LocalQueues there: {some}' if names else 'it has no LocalQueue'}). {remediation}, or "
        "ask your cluster administrator to create this one; the job then continues."
    )


def _place(snapshot: IndexedSnapshot, job: Object) -> Place | None:
    if snapshot.queues is None:
        return None
    return snapshot.queues.places.get(job["metadata"]["uid"])
