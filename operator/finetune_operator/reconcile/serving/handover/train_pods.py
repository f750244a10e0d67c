"""The train Job that is under way, and its pods: they need the GPU that a hand-over releases."""

from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def may_run(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> bool:
    """Report whether the train Job is not suspended; Kueue preempts a Job by suspending it."""
    job = _job(snapshot, target, ledger)
    return job is None or not job.object["spec"].get("suspend")


def living(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> list[Object]:
    """Return the living pods of the train Job."""
    job = _job(snapshot, target, ledger)
    return [
        pod
        for pod in (snapshot.pods_of(job) if job is not None else ())
        if not pod_has_ended(pod) and "deletionTimestamp" not in pod["metadata"]
    ]


def have_node(pods: list[Object]) -> bool:
    """Report whether a pod has a node."""
    return any(pod["spec"].get("nodeName") for pod in pods)


def _job(snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger) -> Child | None:
    """Return the Job of the train attempt that is under way, or None.

    The Job of an attempt that was stopped may still have a pod that waits for a GPU.
    """
    attempt = ledger.training(target.revision)
    if attempt is None or attempt.outcome not in ("Starting", "Running"):
        return None
    job = snapshot.job_of(target.revision, attempt)
    return None if job is None or job.ended or job.terminating else job
