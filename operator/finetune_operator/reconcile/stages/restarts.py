"""How often a stage restarted, and why: each restart is counted once, over all attempts.

A Job never has two pods that may run at once, so the ledger records its newest pod: once another
pod replaces it, the end of the first is counted. A failed pod still exists; a pod that its node or
a user deleted does not, nor does one that its queue suspended, but then the Job shows that.
"""

from collections.abc import Iterable
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_api.v1alpha1.status.ledger import Attempt
from finetune_operator.objects import conditions
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.types import Object

COUNTERS = ("failures", "disruptions", "preemptions")
_LOST = (Reason.JOB_DELETED, Reason.JOB_REPLACED, Reason.VOLUME_LOST, Reason.STOPPED)


def counted(attempt: Attempt, job: Object, pods: Iterable[Object]) -> Attempt:
    """Return the attempt with the restarts since the previous reconcile.

    job: the attempt's own, over or not; pods: those that it controls, oldest first.
    """
    if job["spec"].get("suspend"):
        if attempt.pod is None:
            return attempt
        return _more(attempt, "preemptions").model_copy(update={"pod": None})
    previous_pod: Object | None = None
    fresh: list[Object] = []
    for pod in pods:
        created = str(pod["metadata"]["creationTimestamp"])
        if pod["metadata"]["uid"] == attempt.pod:
            previous_pod, fresh = pod, []
        elif created > (attempt.pod_created or "") and (
            # A terminating pod is not the newest one.
            "deletionTimestamp" not in pod["metadata"] or pod_has_ended(pod)
        ):
            fresh.append(pod)
    if not fresh:
        return attempt
    replaced: list[Object | None] = [*fresh[:-1]]
    if attempt.pod is not None:
        replaced.append(previous_pod)
    for pod_ in replaced:
        attempt = _more(attempt, "failures" if pod_ and _failed(pod_) else "disruptions")
    newest = fresh[-1]["metadata"]
    return attempt.model_copy(
        update={"pod": newest["uid"], "pod_created": str(newest["creationTimestamp"])}
    )


def carried(attempt: Attempt | None) -> dict[str, Any]:
    """Return the counters that another attempt at the stage begins with.

    A stop without a reason was requested by a pause or an edit. Too many restarts are already
    counted.
    """
    if attempt is None:
        return {}
    if attempt.outcome in ("Failed", "Stopped") and attempt.reason not in (
        None,
        Reason.TOO_MANY_RESTARTS,
    ):
        lost = attempt.reason in _LOST
        attempt = _more(attempt, "disruptions" if lost else "failures")
    return {name: getattr(attempt, name) for name in COUNTERS}


def too_many(attempt: Attempt, limit: int) -> Attempt:
    """Return the attempt as failed because its stage restarted more often than the limit."""
    message = (
        f"The {attempt.stage} stage restarted {capped(attempt)} times, but "
        f"spec.runPolicy.maxRestarts is {limit}. To resume, raise this limit to at least "
        f"{capped(attempt)}."
    )
    reason = Reason.TOO_MANY_RESTARTS
    return attempt.model_copy(update={"outcome": "Failed", "reason": reason, "message": message})


def follows_a_lost_volume(previous: Attempt | None) -> bool:
    """Report whether the volume may have been lost since the last Job of a stage was created.

    previous: the last attempt. An attempt beyond the limit of restarts hides the loss before it.
    """
    if previous is None:
        return False
    hides = previous.reason == Reason.TOO_MANY_RESTARTS and previous.job is None
    return hides or previous.reason == Reason.VOLUME_LOST


def capped(attempt: Attempt) -> int:
    """Return how many restarts count towards ``runPolicy.maxRestarts``."""
    return (attempt.failures or 0) + (attempt.disruptions or 0)


def _more(attempt: Attempt, counter: str) -> Attempt:
    return attempt.model_copy(update={counter: (getattr(attempt, counter) or 0) + 1})


def _failed(pod: Object) -> bool:
    failed = pod.get("status", {}).get("phase") == "Failed"
    return failed and not conditions.is_true(pod, "DisruptionTarget")
