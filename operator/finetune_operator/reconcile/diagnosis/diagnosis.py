"""Why a pod is not running: a reason, an explanation with a remediation, and the cluster's message.

The quoted message comes from the pod's conditions and containers, or from warning events. The job
recovers by itself once the cause is fixed. ``scheduling`` explains why no node fits a pod.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.safety import credentials
from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.manifests.sources import DOCKER_CONFIG_KEY
from finetune_operator.objects import events as events_of
from finetune_operator.objects import naming
from finetune_operator.objects.jobs import pod_has_ended
from finetune_operator.objects.stages import publishes
from finetune_operator.reconcile.diagnosis.blocker import Blocker, Evidence
from finetune_operator.reconcile.diagnosis.scheduling import unscheduled
from finetune_operator.reconcile.messages import quoting, sentence
from finetune_operator.types import Object

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
CONTAINER_REASONS = (
    Reason.CREATE_CONTAINER_CONFIG_ERROR,
    Reason.CREATE_CONTAINER_ERROR,
    Reason.RUN_CONTAINER_ERROR,
)
"""Reasons of the kubelet for a container that it cannot start; passed on unchanged."""
API_SERVER = "API server"
KUBELET = "Kubelet"
S3_KEYS = " and ".join(key for key, optional in credentials.S3_KEYS.items() if not optional)
_MISSING = re.compile(
    r"""couldn't\ find\ key\ (?P<key>\S+)\ in\ (?P<of>secret|configmap)\ (?:\S+/)?(?P<owner>[\w.-]+)
    | references\ non-existent\ (?P<volume>config|secret)\ key:\ (?P<path>\S+)
    | (?P<kind>secret|configmap)\ "(?:\S+/)?(?P<object>[\w.-]+)"\ not\ found""",
    re.I | re.X,
)
"""Messages of the kubelet about a missing object or key that a pod refers to: the key of an
environment variable, the key of a volume, and the object of both."""


def of_job(
    job: Object,
    pods: Iterable[Object],
    evidence: Evidence,
    *,
    has_run: bool,
    failed_to_start: bool,
    since: str,
) -> Blocker | None:
    """Return the blocker that keeps a Job from running, or None.

    pods: the Job's own; has_run: whether a pod of the Job has run before, which a Job that is
    suspended again does not show; failed_to_start: the function's result; since: ``waiting_since``.
    """
    pods, events = list(pods), list(evidence.events)
    if job["spec"].get("suspend"):
        return (
            _failed_to_start(job) if failed_to_start else _suspended(job, events, has_run=has_run)
        )
    for pod in pods:
        if pod.get("status", {}).get("phase") == "Pending":
            return of_pod(pod, evidence)
    if all(pod_has_ended(pod) for pod in pods):
        note = events_of.note(events, job, "FailedCreate", since=since)
        return None if note is None else refused(note)
    return None


def refused(note: str) -> Blocker:
    """Return the blocker of a pod's creation, from the API server's message."""
    if "exceeded quota" in note:
        return Blocker(
            reason=Reason.QUOTA_EXCEEDED,
            message=quoting(
                "A ResourceQuota of the namespace is exhausted. Raise the quota, or lower "
                "spec.resources.",
                API_SERVER,
                note,
            ),
        )
    return Blocker(
        reason=Reason.FAILED_CREATE,
        message=quoting(
            "The API server rejected an object of the job. The job continues as soon as the API "
            "server accepts this object.",
            API_SERVER,
            note,
        ),
    )


def of_pod(pod: Object, evidence: Evidence) -> Blocker | None:
    """Return the blocker that keeps a pending pod from running, or None."""
    return unscheduled(pod, evidence) or _container(pod) or _unmounted(pod, evidence)


def started(job: Object, pods: Iterable[Object]) -> bool:
    """Report whether a pod of a Job runs or has run. pods: the Job's own."""
    status = job.get("status", {})
    counted = any(status.get(count) for count in ("ready", "succeeded", "failed"))
    return counted or any(
        pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed") for pod in pods
    )


def failed_to_start(job: Object, events: Iterable[Object], *, before: bool) -> bool:
    """Report whether Kueue will never start a Job that it suspended: its Workload is finished.

    before: whether an earlier reconcile found that, as events expire within the hour.
    """
    finished = before or events_of.note(events, job, "FinishedWorkload") is not None
    return finished and bool(job["spec"].get("suspend"))


def waiting_since(
    job: Object, pods: Iterable[Object], events: Iterable[Object], *, last_pod: str | None = None
) -> str:
    """Return since when a Job waits for its newest pod to run, or for one to be created.

    pods: the Job's own, oldest first; last_pod: when the newest recorded pod was created. Earlier
    time does not count: a pod that is replaced after a day of training has only begun to wait. A
    deleted pod has no recorded end; its replacement waits since it was first rejected.
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
    end, newest_created = max(ends, default=""), max(created, last_pod or "")
    return end if end > newest_created else _first_refused(job, events, since=newest_created)


def _first_refused(job: Object, events: Iterable[Object], *, since: str) -> str:
    """Return when a Job's pod was first rejected after ``since``, ``since`` itself if none was."""
    times = [
        # An event that began earlier and repeats: its first time says nothing about this pod.
        began if (began := str(event["metadata"].get("creationTimestamp", ""))) >= since else last
        for event in events
        if event.get("reason") == Reason.FAILED_CREATE
        and events_of.regarding(event).get("uid") == job["metadata"]["uid"]
        and (last := events_of.last_time(event)) >= since
    ]
    return min(times, default=since)


def _suspended(job: Object, events: list[Object], *, has_run: bool) -> Blocker:
    """Return the blocker of a Job that Kueue, or a similar controller, suspended.

    Its owner may not have named a queue: a namespace may have a default one.
    """
    name, queue = job["metadata"]["name"], naming.label(job, naming.QUEUE)
    queue_name = f"queue {queue}" if queue else "its queue"
    note = events_of.note((event for event in events if event.get("type") != "Normal"), job)
    quoted = f": {sentence(note)}" if note else "."
    if has_run:
        return Blocker(
            reason=Reason.PREEMPTED,
            message=f"Job {name} was suspended to make room for another workload. It resumes from "
            f"its last checkpoint when {queue_name} admits it again{quoted}",
            waits=True,
        )
    return Blocker(
        reason=Reason.QUEUED,
        message=f"Job {name} is waiting for {queue_name} to admit it{quoted}",
        waits=True,
    )


def _failed_to_start(job: Object) -> Blocker:
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    return Blocker(
        reason=Reason.FAILED_TO_START,
        message=f"Kueue could not start Job {name}, marked its Workload as finished, and will not "
        f"retry. To see why, run: kubectl get workloads -l kueue.x-k8s.io/job-uid={uid} -o yaml. "
        "To start a new attempt, change spec.placement or spec.queueName.",
        lasts=True,
    )


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
                message=quoting(
                    f"Image {image} cannot be pulled. Check that the image exists. If the registry "
                    "requires a login, create the Secrets of the chart value imagePullSecrets in "
                    f"the namespace of the job. {_image_of(pod)}",
                    KUBELET,
                    message or reason,
                ),
            )
        if reason == Reason.CRASH_LOOP_BACK_OFF:
            name, namespace = pod["metadata"]["name"], pod["metadata"].get("namespace", "")
            return Blocker(
                reason=Reason.CRASH_LOOP_BACK_OFF,
                message=quoting(
                    f"Container {container['name']} exits repeatedly. To see why, run: kubectl "
                    f"logs {name} -c {container['name']} --previous -n {namespace}.",
                    KUBELET,
                    message,
                ),
            )
        if reason in CONTAINER_REASONS:
            return _missing(pod, message) or Blocker(
                reason=Reason(reason),
                message=quoting(
                    f"Container {container['name']} cannot be started.", KUBELET, message
                ),
            )
    return None


def _image_of(pod: Object) -> str:
    """Return how a wrong image in the chart is corrected for a job that has started."""
    if naming.is_serving(pod):
        return (
            "If the chart has a wrong image, correct it: a revision of which no serving pod has "
            "ever started takes the corrected image. Any other keeps its image, so provide it "
            "under this name; spec.rerun would train again."
        )
    return (
        "If the chart has a wrong image, correct it: a revision of which no container has started "
        "takes the corrected image. Any other keeps its image: provide it under this name, or set "
        "spec.rerun to a new value to start a new revision."
    )


def _unmounted(pod: Object, evidence: Evidence) -> Blocker | None:
    note = events_of.note(evidence.events, pod, "FailedMount") or events_of.note(
        evidence.events, pod, "FailedAttachVolume"
    )
    if note is None:
        return None
    explanation = (
        "A volume of the pod cannot be attached or mounted. Possible causes: another pod or node "
        "still uses the volume, or the node of the pod lacks the storage driver of the volume."
    )
    return _missing(pod, note) or Blocker(
        reason=Reason.VOLUME_PENDING, message=quoting(explanation, KUBELET, note)
    )


def _missing(pod: Object, message: str) -> Blocker | None:
    """Return which object a kubelet message misses: a Secret, a ConfigMap, or a key of one."""
    missing = _MISSING.search(message)
    if missing is None:
        return None
    namespace = pod["metadata"].get("namespace", "")
    name, key = missing["object"] or missing["owner"], missing["key"] or missing["path"]
    secret = "secret" in (missing["kind"] or missing["of"] or missing["volume"] or "").lower()
    kind = "Secret" if secret else "ConfigMap"
    subject = f"{kind} {name}" if name else f"A {kind} of the job"
    if key:
        explanation = f"{subject} has no key {key}. Add the key to it in namespace {namespace}."
    else:
        explanation = f"{subject} does not exist. Create it in namespace {namespace}"
        if not secret:
            keys = "the key that the configmap:// source or caConfigMapRef names"
        elif naming.is_serving(pod):
            keys = "the key that serving.apiKeySecretRef names"
        else:
            keys = (
                f"the key that tokenSecretRef names, the key {DOCKER_CONFIG_KEY} for "
                f"oci.secretRef, or, for s3.secretRef, the keys {S3_KEYS}"
            )
            if publishes(naming.label(pod, naming.STAGE)):
                # All keys for a tracking server are optional, so no pod waits for its Secret.
                keys = (
                    f"the key {DOCKER_CONFIG_KEY} for oci.secretRef, the key that "
                    "huggingFace.tokenSecretRef names, or, for s3.secretRef, the keys "
                    f"{S3_KEYS}"
                )
        explanation += f", with {keys}."
    return Blocker(
        reason=Reason.SECRET_MISSING if secret else Reason.CONFIG_MAP_MISSING,
        message=quoting(explanation, KUBELET, message),
    )
