"""Random deletions by users: of any child, of a volume, and of what a message asks to delete."""

from tests.fakes import controllers
from tests.fakes.apiserver import Cluster
from tests.unit.operator.reconcile.random_events import deleted, target

from finetune_operator.objects import naming


def delete_any(cluster: Cluster, index: int) -> str | None:
    """Delete a child as a user does; return its kind."""
    if thing := target([each for each in cluster.objects.values() if not deleted(each)], index):
        controllers.delete(cluster, thing["kind"], thing["metadata"]["name"])
        return str(thing["kind"])
    return None


def delete_volume(cluster: Cluster, index: int) -> bool:
    """Delete a volume as a user does, of any revision; report whether there was one.

    It exists for as long as a pod that has or had a node mounts it.
    """
    claims = [each for each in cluster.each(naming.VOLUME) if not deleted(each)]
    claim = target(claims, index)
    if claim is not None:
        cluster.mark_deleted(claim)
    return claim is not None


def delete_ended_orphans(cluster: Cluster) -> None:
    """Delete the pods that have ended but that no controller deletes, as a message asks for."""
    for pod in cluster.each("Pod"):
        if not controllers.alive(pod) and not pod["metadata"]["ownerReferences"]:
            cluster.mark_deleted(pod)
