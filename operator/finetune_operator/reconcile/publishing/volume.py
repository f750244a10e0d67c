"""The volumes of a publish Job: terminating ones, and those that only one node can mount."""

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.actions import Delete
from finetune_operator.objects import conditions, endpoints, naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import publishes
from finetune_operator.reconcile.stages.cancellation import UNDER_WAY, attempt_of
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.types import Object


def keeps_from_serving(snapshot: IndexedSnapshot, job: Child) -> bool:
    """Report whether a publish Job keeps its volume from a serving pod on another node.

    The serving pod started later, for example because its node failed; it cannot start before the
    publish pod is gone. A Job without a pod on a node does not use the volume.
    """
    volume = snapshot.volume(str(job.revision))
    if volume is None or "ReadWriteMany" in volume.object["spec"]["accessModes"]:
        return False
    nodes = {pod["spec"].get("nodeName") for pod in snapshot.pods_of(job)} - {None}
    return bool(nodes) and any(
        pod.serves
        and pod.revision == job.revision
        and pod.object["status"].get("phase") == "Pending"
        and pod.object["spec"].get("nodeName") not in (None, *nodes)
        for pod in snapshot.pods
    )


def is_out_of_reach(snapshot: IndexedSnapshot, job: Child) -> bool:
    """Report whether no pod of a publish Job can ever mount the volume, because it is terminating.

    A running pod has mounted it. It completes the upload, which saves the model.
    """
    return not snapshot.can_be_mounted(job.revision) and not any(
        pod["status"].get("phase") == "Running" for pod in snapshot.pods_of(job)
    )


def released(snapshot: IndexedSnapshot, ledger: Ledger) -> tuple[Delete, ...]:
    """Return the deletions of ended publish Jobs that keep the claim of an endpoint.

    Kubernetes deletes a claim after all pods that mount it, even those that have ended. Until then,
    neither this endpoint nor another one of the same name gets a claim. The ledger has the results.
    """
    used = {
        endpoints.object_name(endpoint["metadata"]["name"])
        for endpoint in snapshot.endpoints
        if _uses_its_claim(endpoint)
    }
    return tuple(
        Delete(object=job.object)
        for job in snapshot.jobs
        if job.owned
        and publishes(job.stage)
        and job.ended
        and not job.terminating
        and not _is_under_way(ledger, job)
        and not _other_claims(snapshot, job) <= used
    )


def _uses_its_claim(endpoint: Object) -> bool:
    if "deletionTimestamp" in endpoint["metadata"]:
        return False
    waits = conditions.get(endpoint, "Ready").get("reason") == Reason.WAITING_FOR_VOLUME
    return not waits and (endpoint.get("status") or {}).get("volume") is not None


def _is_under_way(ledger: Ledger, job: Child) -> bool:
    attempt = attempt_of(ledger, job)
    return attempt is not None and attempt.outcome in UNDER_WAY


def _other_claims(snapshot: IndexedSnapshot, job: Child) -> set[str]:
    """Return the names of the claims that the pods of a Job mount, but that of its revision."""
    own = naming.revision_name(snapshot.name, str(job.revision))
    claims = (
        volume.get("persistentVolumeClaim")
        for pod in snapshot.pods_of(job)
        for volume in pod["spec"].get("volumes") or ()
    )
    return {str(claim["claimName"]) for claim in claims if claim} - {own}
