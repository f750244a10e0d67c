"""Why a pod is not running, in one word and a sentence, from what the cluster says about it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.state import Object

IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """What keeps a stage from starting.

    ``waits`` is True for what mends itself when a resource becomes free: such a job is never
    called stalled, however long it takes.
    """

    reason: str
    message: str
    waits: bool = False


def of_job(job: Object, pods: Iterable[Object], events: Iterable[Object]) -> Blocker | None:
    """Return what keeps a Job from running, or None.

    pods: the Job's own; events: warnings about the Job, its pods and its volume.
    """
    pods, events = list(pods), list(events)
    if job["spec"].get("suspend"):
        return Blocker(reason="Queued", message="waiting for its queue to admit it", waits=True)
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Pending":
            return of_pod(pod, events)
    if all(_ended(pod) for pod in pods):
        note = _note(events, job, "FailedCreate", since=waiting_since(job, pods))
        if note is not None:
            reason = "QuotaExceeded" if "exceeded quota" in note else "FailedCreate"
            return Blocker(reason=reason, message=note)
    return None


def of_pod(pod: Object, events: Iterable[Object]) -> Blocker | None:
    """Return what keeps a pending pod from running, or None."""
    events = list(events)
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message", "")
            if "PersistentVolumeClaim" in message or "persistentvolumeclaim" in message:
                return Blocker(reason="VolumePending", message=message)
            return Blocker(reason="Unschedulable", message=message, waits=True)
    containers = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    for container in containers:
        waiting: Mapping[str, Any] = container.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in IMAGE_REASONS:
            image = container.get("image", "")
            return Blocker(reason="ImagePullFailed", message=f"image {image}: {message or reason}")
        if reason == "CreateContainerConfigError":
            return Blocker(reason=_missing(message) or reason, message=message)
        if reason == "CrashLoopBackOff":
            name = pod["metadata"]["name"]
            return Blocker(
                reason=reason,
                message=f"{message or reason}: see kubectl logs {name} --previous",
            )
        if reason in ("CreateContainerError", "RunContainerError"):
            return Blocker(reason=reason, message=message)
    note = _note(events, pod, "FailedMount") or _note(events, pod, "FailedAttachVolume")
    if note is not None:
        return Blocker(reason=_missing(note) or "VolumePending", message=note)
    return None


def _missing(message: str) -> str | None:
    """Return SecretMissing or ConfigMapMissing where a message speaks of one."""
    found = re.search(
        r"(secret|configmap|non-existent config key|references non-existent)", message, re.I
    )
    if found is None:
        return None
    return "SecretMissing" if found[1].lower() == "secret" else "ConfigMapMissing"


def waiting_since(job: Object, pods: Iterable[Object]) -> str:
    """Return since when a Job waits for its newest pod to run, or for one to be created.

    pods: the Job's own, oldest first. What came before is no matter: a pod that is replaced after
    a day of training has only just begun to wait.
    """
    newest = next(reversed(list(pods)), None)
    if newest is None:
        started = job.get("status", {}).get("startTime") or job["metadata"]["creationTimestamp"]
        return str(started)
    ends = [
        str(container["state"]["terminated"].get("finishedAt", ""))
        for container in newest.get("status", {}).get("containerStatuses", ())
        if _ended(newest) and "terminated" in container.get("state", {})
    ]
    return max(ends, default="") or str(newest["metadata"]["creationTimestamp"])


def _ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _note(events: Iterable[Object], about: Object, reason: str, *, since: str = "") -> str | None:
    """Return the newest event's text about an object, or None where there is none after since."""
    uid = about["metadata"]["uid"]
    notes = [
        event
        for event in events
        if event.get("reason") == reason
        and (event.get("regarding") or event.get("involvedObject") or {}).get("uid") == uid
        and _last_seen(event) >= since
    ]
    if not notes:
        return None
    newest = max(notes, key=_last_seen)
    return str(newest.get("note") or newest.get("message") or reason)


def _last_seen(event: Object) -> str:
    """Return when an event happened last; one that repeats is the same object with a later time."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return max(str(time) for time in times if time) if any(times) else ""
