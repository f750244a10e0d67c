"""Whether the GPU of the stable build is all that a waiting train pod needs.

The operator does not read nodes and PersistentVolumes. All that it knows about the node of the
serving pod is that this pod runs there. If it cannot derive from the pods and the claim that the
train pod could run on that node, too, the stable build keeps its GPU.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_operator.objects import naming
from finetune_operator.objects.index import IndexedSnapshot
from finetune_operator.objects.pods import refused_by_nodes
from finetune_operator.objects.scheduler_message import only_lacks
from finetune_operator.reconcile.serving import readiness
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def obstacle(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    serving: str,
    waiting: Object,
) -> str | None:
    """Return why the stable build keeps its GPU while a train pod waits, None if it need not.

    serving: the stable build.
    """
    pods, name = readiness.pods_of(snapshot, serving), ledger.name_of(serving)
    node = _node(pods[0]) if len(pods) == 1 else None
    if node is None and not any(map(_node, pods)):
        return f"Build {name} has no GPU that it could release: none of its pods has a node."
    cause = _cause(snapshot, target, pods, node, waiting)
    return cause and (
        f"Build {name} keeps its GPU: {cause} To release the GPU anyway, set "
        "spec.serving.rollout to FreeGPU."
    )


def _cause(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    pods: Sequence[Object],
    node: str | None,
    waiting: Object,
) -> str | None:
    """Return why a release might not help the waiting train pod, as a sentence; None if it would.

    pods: those of the stable build; node: that of its only pod.
    """
    if (count := target.resolved.spec.serving.replicas) != 1:
        return f"spec.serving.replicas is {count}, but a GPU is released only if replicas is 1."
    if not only_lacks(refused_by_nodes(waiting) or "", target.config.gpu.resource_name):
        return (
            "The train pod possibly lacks more than a GPU. In this case, it cannot start even if a "
            "GPU is released."
        )
    if node is None:
        return f"the build has {len(pods)} pods, but a GPU is released only if it has one."
    if not _placement_allows(waiting, pods[0]):
        return f"The train pod might not be allowed on node {node}, whose GPU would be released."
    if not _volume_reaches(snapshot, target.revision, node):
        claim = naming.revision_name(snapshot.name, target.revision)
        return (
            f"PersistentVolumeClaim {claim} might not be available on node {node}, whose GPU "
            "would be released."
        )
    return None


def _node(pod: Object) -> str | None:
    node: str | None = pod["spec"].get("nodeName")
    return node


def _placement_allows(waiting: Object, running: Object) -> bool:
    """Report whether every node that accepts the running pod accepts the waiting one.

    Compared are the requirements in the pods themselves, to which Kueue or a webhook may have
    added some.
    """
    asked, met = waiting["spec"], running["spec"]
    affinity = asked.get("affinity") or {}
    if any(
        (affinity.get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
        for kind in ("podAffinity", "podAntiAffinity")
    ) or any(
        constraint.get("whenUnsatisfiable") != "ScheduleAnyway"
        for constraint in asked.get("topologySpreadConstraints") or ()
    ):
        return False
    selector, terms = asked.get("nodeSelector") or {}, _node_terms(asked)
    return (
        selector.items() <= (met.get("nodeSelector") or {}).items()
        # The terms are alternatives: each one of the running pod must be permitted.
        and (not terms or (bool(_node_terms(met)) and _all_in(_node_terms(met), terms)))
        and _all_in(met.get("tolerations") or (), asked.get("tolerations") or ())
    )


def _node_terms(spec: Any) -> list[Any]:
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return list(required.get("nodeSelectorTerms") or ())


def _all_in(some: Iterable[Any], all_: Iterable[Any]) -> bool:
    permitted = list(all_)
    return all(value in permitted for value in some)


def _volume_reaches(snapshot: IndexedSnapshot, revision: str, node: str) -> bool:
    """Report whether the volume of a revision is known to be available on a node.

    It was created for that node, or a pod of the revision has run there.
    """
    claim = snapshot.volume(revision)
    if claim is None:
        return False
    return naming.selected_node(claim.object) == node or any(
        _node(pod.object) == node and pod.object.get("status", {}).get("phase") != "Pending"
        for pod in snapshot.pods
        if pod.revision == revision
    )
