"""Why a pod is not running, in one word and a sentence, from what the cluster says about it.

The sentence is the cluster's own, from the pod's conditions and containers or from the warnings
about it, followed by what to do. Every cause recovers by itself once it is mended.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.objects.pods import refused_by_nodes
from finetune_operator.types import Object

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
CONTAINER_REASONS = (
    Reason.CREATE_CONTAINER_CONFIG_ERROR,
    Reason.CREATE_CONTAINER_ERROR,
    Reason.RUN_CONTAINER_ERROR,
)
"""What the kubelet says of a container that it cannot start; passed on as it is."""


@dataclass(frozen=True, kw_only=True)
class Blocker:
    """What keeps a stage from starting.

    ``waits`` is True for what mends itself when a resource becomes free: such a job is never
    called stalled, however long it takes. ``lasts`` is True for what no time mends: that is stalled
    at once.
    """

    reason: Reason
    message: str
    waits: bool = False
    lasts: bool = False


def of_job(
    job: Object,
    pods: Iterable[Object],
    events: Iterable[Object],
    *,
    has_run: bool = False,
    failed_to_start: bool = False,
    since: str,
) -> Blocker | None:
    """Return what keeps a Job from running, or None.

    pods: the Job's own; events: those about the Job, its pods and its volume; has_run: whether
    a pod of the Job has run before, which a Job that is suspended again does not show;
    failed_to_start: the function's result; since: ``waiting_since``.
    """
    pods, events = list(pods), list(events)
    if job["spec"].get("suspend"):
        return (
            _failed_to_start(job) if failed_to_start else _suspended(job, events, has_run=has_run)
        )
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Pending":
            return of_pod(pod, events)
    if all(pod_has_ended(pod) for pod in pods):
        note = _note(events, job, "FailedCreate", since=since)
        return None if note is None else refused(note)
    return None


def refused(note: str) -> Blocker:
    """Return what keeps a pod from being created, by the API server's answer."""
    if "exceeded quota" in note:
        return Blocker(
            reason=Reason.QUOTA_EXCEEDED,
            message=f"{note}; raise the ResourceQuota, or lower spec.resources",
        )
    return Blocker(
        reason=Reason.FAILED_CREATE,
        message=f"{note}; it goes on once the policy, webhook or account lets the pod in",
    )


def of_pod(pod: Object, events: Iterable[Object]) -> Blocker | None:
    """Return what keeps a pending pod from running, or None."""
    events = list(events)
    return _unscheduled(pod, events) or _container(pod) or _unmounted(pod, events)


def started(job: Object, pods: Iterable[Object]) -> bool:
    """Tell whether a pod of a Job runs or has run. pods: the Job's own."""
    status = job.get("status", {})
    counted = any(status.get(count) for count in ("ready", "succeeded", "failed"))
    return counted or any(
        pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed") for pod in pods
    )


def failed_to_start(job: Object, events: Iterable[Object], *, before: bool) -> bool:
    """Tell whether Kueue will not start a Job that it suspended: the Job's Workload is finished.

    before: whether that was known already, for an event is forgotten within the hour.
    """
    told = before or _note(events, job, "FinishedWorkload") is not None
    return told and bool(job["spec"].get("suspend"))


def waiting_since(
    job: Object, pods: Iterable[Object], events: Iterable[Object], *, last_pod: str | None = None
) -> str:
    """Return since when a Job waits for its newest pod to run, or for one to be created.

    pods: the Job's own, oldest first; last_pod: when the newest that is known was created. What
    came before is no matter: a pod that is replaced after a day of training has only just begun to
    wait. One that is gone tells no end; its replacement waits since that was first refused.
    """
    newest = next(reversed(list(pods)), None)
    if newest is None:
        created = ""
        ends = [str(job.get("status", {}).get("startTime") or job["metadata"]["creationTimestamp"])]
    else:
        created = str(newest["metadata"]["creationTimestamp"])
        if not pod_has_ended(newest):
            return created
        ends = [
            str(container["state"]["terminated"].get("finishedAt", ""))
            for container in newest.get("status", {}).get("containerStatuses", ())
            if "terminated" in container.get("state", {})
        ]
    end, known = max(ends, default=""), max(created, last_pod or "")
    return end if end > known else _first_refused(job, events, since=known)


def _first_refused(job: Object, events: Iterable[Object], *, since: str) -> str:
    """Return when a Job's pod was first refused after ``since``, that time where none was."""
    times = [
        # One that began before and goes on: when it was first seen says nothing about this pod.
        began if (began := str(event["metadata"].get("creationTimestamp", ""))) >= since else last
        for event in events
        if event.get("reason") == Reason.FAILED_CREATE
        and _regarding(event).get("uid") == job["metadata"]["uid"]
        and (last := _last_seen(event)) >= since
    ]
    return min(times, default=since)


def _suspended(job: Object, events: list[Object], *, has_run: bool) -> Blocker:
    """Return what a Job waits for that somebody else suspended: Kueue, or whoever acts like it.

    It may be in a queue that its owner never named: a namespace may have a default one.
    """
    name, queue = job["metadata"]["name"], naming.label(job, naming.QUEUE)
    whom = f"queue {queue}" if queue else "the queue that suspended it"
    note = _note((each for each in events if each.get("type") != "Normal"), job)
    said = f": {note}" if note else ""
    if has_run:
        return Blocker(
            reason=Reason.PREEMPTED,
            message=f"Job {name} was stopped to make room; it goes on from its last checkpoint "
            f"once {whom} admits it again{said}",
            waits=True,
        )
    return Blocker(
        reason=Reason.QUEUED, message=f"Job {name} waits for {whom} to admit it{said}", waits=True
    )


def _failed_to_start(job: Object) -> Blocker:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    return Blocker(
        reason=Reason.FAILED_TO_START,
        message=f"Kueue could not start Job {name} and has given it up: kubectl get workloads "
        f"-l kueue.x-k8s.io/job-uid={uid} -o yaml tells with what the pod is in conflict; an edit "
        "of spec.placement or spec.queueName tries again",
        lasts=True,
    )


def _unscheduled(pod: Object, events: list[Object]) -> Blocker | None:
    message = refused_by_nodes(pod)
    if message is None:
        return None
    if re.search(r"persistentvolumeclaim|persistent volumes? to bind|storageclass", message, re.I):
        return _volume(pod, message, events)
    if re.search(r"volume node affinity conflict|PersistentVolume's node affinity", message):
        message += (
            "; the job's volume is bound to another zone or node than the nodes that fit: "
            "free or add such a node there, or delete the job and set spec.placement.zones"
        )
    elif "didn't match Pod's node affinity/selector" in message:
        message += (
            "; no node has the labels that are asked for: label a node, or change spec.placement"
        )
    return Blocker(reason=Reason.UNSCHEDULABLE, message=message, waits=True)


def _volume(pod: Object, message: str, events: list[Object]) -> Blocker:
    """Return that a pod waits for its volume; why is said by the events of the claim."""
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod.get("spec", {}).get("volumes", ())
        if "persistentVolumeClaim" in volume
    ]
    for claim in claims:
        about = [event for event in events if _regarding(event).get("name") == claim]
        if about:
            message += f": claim {claim}: {_text(max(about, key=_last_seen))}"
        else:
            message += (
                f"; see kubectl describe pvc {claim}: without a default StorageClass "
                "spec.storage.storageClassName must name one"
            )
    return Blocker(reason=Reason.VOLUME_PENDING, message=message)


def _container(pod: Object) -> Blocker | None:
    status = pod.get("status", {})
    for container in (
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ):
        waiting: Mapping[str, Any] = container.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
        if reason in IMAGE_REASONS:
            image = container.get("image", "")
            return Blocker(
                reason=Reason.IMAGE_PULL_FAILED,
                message=f"image {image}: {message or reason}; the image must exist, and the "
                "namespace have the chart's imagePullSecrets where the registry asks for a login",
            )
        if reason == Reason.CRASH_LOOP_BACK_OFF:
            name = pod["metadata"]["name"]
            return Blocker(
                reason=Reason.CRASH_LOOP_BACK_OFF,
                message=f"{message or reason}: see kubectl logs {name} --previous",
            )
        if reason in CONTAINER_REASONS:
            return _missing(message) or Blocker(reason=Reason(reason), message=message)
    return None


def _unmounted(pod: Object, events: list[Object]) -> Blocker | None:
    note = _note(events, pod, "FailedMount") or _note(events, pod, "FailedAttachVolume")
    if note is None:
        return None
    return _missing(note) or Blocker(reason=Reason.VOLUME_PENDING, message=note)


def _missing(message: str) -> Blocker | None:
    """Return what a message of the kubelet misses: a Secret, a ConfigMap, or a key of one."""
    found = re.search(
        r"(secret|configmap|non-existent config key|references non-existent)", message, re.I
    )
    if found is None:
        return None
    if found[1].lower() == "secret":
        return Blocker(
            reason=Reason.SECRET_MISSING,
            message=f"{message}; create it with the key that tokenSecretRef names, in the job's "
            "namespace",
        )
    return Blocker(
        reason=Reason.CONFIG_MAP_MISSING,
        message=f"{message}; create it with the key that dataset.source (or that of "
        "evaluation.dataset) names, in the job's namespace",
    )


def _note(
    events: Iterable[Object], about: Object, word: str | None = None, *, since: str = ""
) -> str | None:
    """Return the newest event's text about an object, or None where there is none after since."""
    uid = about["metadata"]["uid"]
    found = [
        event
        for event in events
        if word in (None, event.get("reason"))
        and _regarding(event).get("uid") == uid
        and _last_seen(event) >= since
    ]
    return _text(max(found, key=_last_seen)) if found else None


def _regarding(event: Object) -> Object:
    regarding: Object = event.get("regarding") or event.get("involvedObject") or {}
    return regarding


def _text(event: Object) -> str:
    return str(event.get("note") or event.get("message") or event.get("reason"))


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
