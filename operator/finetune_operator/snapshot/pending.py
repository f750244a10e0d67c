"""Objects that do not run, whose events may say why. Pure."""

from collections.abc import Iterable

from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pods_of
from finetune_operator.objects.pods import has_a_node, refused_by_nodes
from finetune_operator.types import Object

MAX_PENDING_OBJECTS = 6


def pending_objects(
    *, volumes: Iterable[Object], jobs: Iterable[Object], pods: Iterable[Object]
) -> list[Object]:
    """Return the newest objects that do not run, whose events may contain the cause.

    The events of a pod say what its node lacks; why no node fits it is one of its conditions. Those
    of a volume matter while it is provisioned, or while the scheduler rejects a pod; those of a
    Job say why it has no pod, except after a pod has succeeded.
    """
    pods = tuple(pods)
    waiting = [pod for pod in pods if _status(pod).get("phase") in (None, "Pending")]
    rejected = any(refused_by_nodes(pod) is not None for pod in waiting)
    pending = [pod for pod in waiting if has_a_node(pod)]
    pending += [
        volume
        for volume in volumes
        if _status(volume).get("phase") != "Bound" and (rejected or naming.selected_node(volume))
    ]
    others = [pod for pod in pods if _status(pod).get("phase") != "Failed"]
    pending += [job for job in jobs if not is_over(job) and not pods_of(job, others)]
    pending.sort(
        key=lambda child: str(child["metadata"].get("creationTimestamp", "")), reverse=True
    )
    return pending[:MAX_PENDING_OBJECTS]


def event_fields(regarding: Object) -> str:
    """Return the field selector for the warnings about an object.

    All events of a suspended Job are read: Kueue does not report as a warning that it finished the
    Workload of a Job.
    """
    events = f"involvedObject.uid={regarding['metadata']['uid']}"
    suspended = regarding["kind"] == "Job" and regarding["spec"].get("suspend")
    return events if suspended else f"type=Warning,{events}"


def _status(child: Object) -> Object:
    status: Object = child.get("status") or {}
    return status
