"""Names, labels and ownership of a job's children: the contract of docs/reference/labels.md."""

from collections.abc import Mapping
from typing import Any

from finetune_api import API_VERSION, GROUP, KIND
from finetune_api.contracts import labels as keys
from finetune_api.layering import value_at
from finetune_api.v1alpha1.endpoints.spec import ENDPOINT_KIND
from finetune_api.v1alpha1.profile import DEFAULT_ANNOTATION
from finetune_api.v1alpha1.serving import WAKE_ANNOTATION
from finetune_operator.objects.stages import serves
from finetune_operator.objects.status_view import volume_owners
from finetune_operator.types import Object

PREFIX = GROUP
JOB = keys.JOB
REVISION = keys.REVISION
ENDPOINT = keys.ENDPOINT
BUILD = f"{PREFIX}/build"
STAGE = f"{PREFIX}/stage"
ATTEMPT = f"{PREFIX}/attempt"
JOB_UID = f"{PREFIX}/job-uid"
"""On volumes only: uid of their job if they have no owner (``deletionPolicy: Retain``)."""
REUSE = f"{PREFIX}/reuse"
REUSE_DOWNLOADS = "downloads"
"""Label on a volume of an earlier job: another job of its name may use it and delete its models."""
QUEUE = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"
TEMPLATE_HASH = "pod-template-hash"
"""Label of the pods of a Deployment, which the name of their ReplicaSet contains."""
DEFAULT_PROFILE = DEFAULT_ANNOTATION
"""Annotation of a profile that applies to the jobs that name none."""
WAKE = WAKE_ANNOTATION
"""Annotation of a FineTuneJob: the time from which its idle endpoint runs again."""
NOTE = f"{PREFIX}/note"
"""Annotation of the Lease: a text from one leader to the next."""
MAX_TIME = 64
"""Characters that are kept of a time which a user writes."""
MANAGER = "app.kubernetes.io/managed-by"
MANAGED_BY = "finetune-operator"
"""Value of the label of every object that the operator creates."""
VOLUME = "PersistentVolumeClaim"
OWNERS = frozenset({KIND, ENDPOINT_KIND})
"""Kinds of our own that own objects."""
SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""Annotation of a claim: the node for which the scheduler let its volume be created."""


def revision_name(job: str, revision: str) -> str:
    """Return the name of a revision's ConfigMap and volume."""
    return f"{job}-{revision}"


def job_name(job: str, revision: str, stage: str, attempt: int) -> str:
    """Return the name of the Job of an attempt at a stage."""
    return f"{job}-{revision}-{stage}-{attempt}"


def deployment_name(job: str, build: str) -> str:
    """Return the name of a build's Deployment."""
    return f"{job}-{build}"


def published_name(job: str, revision: str, build: str, what: str) -> str:
    """Return the name of published content, which never moves to other content.

    A revision has one adapter, but each of its builds has a merged model.
    """
    parts = (job, revision, what) if what == "adapter" else (job, revision, build, what)
    return "-".join(parts)


def service_name(job: str) -> str:
    """Return the name of the Service of the endpoint."""
    return f"{job}-serve"


def owner_reference(job: Object) -> dict[str, Any]:
    """Return the owner reference to the job, or endpoint, that its children have."""
    return {
        "apiVersion": API_VERSION,
        "kind": job.get("kind", KIND),
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_by(job: Object, child: Object) -> bool:
    """Report whether ``job`` owns ``child``; an earlier job of the same name has another uid.

    Only the uid of an owner counts: whoever changes the other fields of the owner must not take the
    object from its job. A child of another FineTuneJob or FineTuneEndpoint is not owned.

    A job that was restored from a backup also owns the volumes of the uids in its status, which no
    tenant can write. Anyone may have filled these volumes: the stages verify their content.
    """
    accepted, controller = {job["metadata"]["uid"]}, controller_of(child)
    owners = {reference["uid"] for reference in child["metadata"].get("ownerReferences") or ()}
    if child["kind"] == VOLUME:
        accepted.update(volume_owners(job.get("status") or {}))
        if controller is None:
            owners.add(label(child, JOB_UID))
    if controller is not None and controller.get("kind") in OWNERS:
        owners = {controller["uid"]}
    return not owners.isdisjoint(accepted)


def controlled_by(controller: Object, child: Object) -> bool:
    """Report whether an object controls another, as a Job controls its pods."""
    owner = controller_of(child)
    return owner is not None and bool(owner["uid"] == controller["metadata"]["uid"])


def has_exact_owners(desired: Object, existing: Object) -> bool:
    """Report whether an object has exactly the owners of ``desired``, if that names any.

    An object with another owner would not be deleted together with its job.
    """
    owners = desired["metadata"].get("ownerReferences")
    return owners is None or owners == (existing["metadata"].get("ownerReferences") or [])


def may_adopt(job: Object, child: Object) -> bool:
    """Report whether ``child`` is a volume of an earlier job of the name, which ``job`` may use.

    Its label allows that all models on it are deleted. Who may set the label may also delete the
    claim: the admission policy leaves marked claims to administrators, and without this policy the
    label needs the right to change claims, which a job author does not have. The label proves
    nothing about the files.
    """
    uid = label(child, JOB_UID)
    return (
        child["kind"] == VOLUME
        and label(child, JOB) == job["metadata"]["name"]
        and label(child, REUSE) == REUSE_DOWNLOADS
        and uid is not None
        and uid != job["metadata"]["uid"]
        and controller_of(child) is None
    )


def left_by_an_earlier_job(job: Object, child: Object) -> bool:
    """Report whether a deleted job of the same name owns ``child``, which is garbage-collected."""
    controller = controller_of(child)
    return (
        controller is not None
        and (controller.get("kind"), controller.get("name")) == (KIND, job["metadata"]["name"])
        and controller["uid"] != job["metadata"]["uid"]
    )


def controller_of(child: Object) -> Object | None:
    """Return the owner reference to an object's controller, or None."""
    references = child["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), None)


def label(child: Object, key: str) -> str | None:
    """Return a label of an object, or None."""
    value = child["metadata"].get("labels", {}).get(key)
    return None if value is None else str(value)


def is_serving(pod: Object) -> bool:
    """Report whether a pod has the label of the pods that serve a model."""
    return serves(label(pod, STAGE))


def is_default_profile(profile: Object) -> bool:
    """Report whether a profile applies to the jobs that name none."""
    annotations: Mapping[str, Any] = profile["metadata"].get("annotations") or {}
    return annotations.get(DEFAULT_PROFILE) == "true"


def parent_of(job: Object) -> str | None:
    """Return the name of the job whose adapter a job continues from, or None."""
    name = value_at(job["spec"], ("training", "startFrom", "job", "name"))
    return name if isinstance(name, str) else None


def own_annotations(body: Object) -> dict[str, str]:
    """Return the annotations of an object of our own kinds that the operator uses."""
    used = {DEFAULT_PROFILE: "true"} if is_default_profile(body) else {}
    wake = (body["metadata"].get("annotations") or {}).get(WAKE)
    return used if wake is None else {**used, WAKE: str(wake)[:MAX_TIME]}


def note(lease: Object) -> str:
    """Return the text that a Lease carries to the next leader, empty without one."""
    return str((lease["metadata"].get("annotations") or {}).get(NOTE) or "")


def noted(text: str) -> dict[str, str]:
    """Return the annotations of a Lease with a text for the next leader."""
    return {NOTE: text} if text else {}


def selected_node(claim: Object) -> str | None:
    """Return the node for which the volume of a claim is or was provisioned, or None."""
    annotations: Mapping[str, str] = claim["metadata"].get("annotations") or {}
    return annotations.get(SELECTED_NODE)


def labels(
    job: Object,
    *,
    component: str,
    extra: Mapping[str, str] | None = None,
    **own: str | int | None,
) -> dict[str, str]:
    """Return a child's labels: the user's, the recommended ones and the job's own.

    ``own`` are ``revision``, ``build``, ``stage`` and ``attempt``; None omits a label. Labels of
    the job itself are never copied: one of them may select a queue.
    """
    name = job["metadata"]["name"]
    return {
        **(extra or {}),
        "app.kubernetes.io/name": "finetune",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": component,
        MANAGER: MANAGED_BY,
        JOB: name,
        **{f"{PREFIX}/{key}": str(value) for key, value in own.items() if value is not None},
    }


def metadata(job: Object, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a child of ``job``."""
    return {
        "name": name,
        "namespace": job["metadata"]["namespace"],
        "labels": dict(labels),
        "ownerReferences": [owner_reference(job)],
    }
