"""Whether a queue manages the train Job of a job that names one.

Without rights on the objects of Kueue, the Job itself is the evidence. Kueue suspends each Job that
it manages when the Job is created. The Job controller then sets the Job's condition Suspended and
keeps it, as False, after the Job is admitted. Kueue also marks the pod template.
"""

from finetune_operator.objects import conditions, naming
from finetune_operator.types import Object

KUEUE = "kueue.x-k8s.io/"


def warnings(job: Object, *, has_run: bool) -> tuple[str, ...]:
    """Return a warning if a Job with a queue has run and no queue ever held it."""
    queue = naming.label(job, naming.QUEUE)
    if queue is None or not has_run or _managed(job):
        return ()
    return (
        f"spec.queueName is {queue}, but the train Job started without admission by a queue: Kueue "
        "is not installed, or does not manage Jobs in this namespace. The quota of the queue does "
        "not apply to this Job. Install or configure Kueue, or remove spec.queueName.",
    )


def _managed(job: Object) -> bool:
    """Report whether Kueue, or a similar controller, manages a Job that has its label."""
    metadata = job["spec"].get("template", {}).get("metadata", {})
    marks = {**metadata.get("labels", {}), **metadata.get("annotations", {})}
    suspended = bool(job["spec"].get("suspend") or conditions.get(job, "Suspended"))
    return suspended or any(key.startswith(KUEUE) for key in marks)
