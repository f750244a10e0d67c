"""Why the scheduler finds no node for a pod: the labels, resources, taints or volume that it lacks.

The scheduler reports, for each node, the first requirement that the node does not meet. It checks
taints, then labels, then resources, then volumes. A node that lacks only a later one is the closest
to fit the pod, so its cause is the one to explain.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune_api.v1alpha1.reasons import Reason
from finetune_operator.objects import events as events_of
from finetune_operator.objects import naming
from finetune_operator.objects.pods import claims_of, has_a_node, refused_by_nodes
from finetune_operator.reconcile.diagnosis.blocker import Blocker, Evidence, names
from finetune_operator.reconcile.messages import quoting
from finetune_operator.types import Object

SCHEDULER = "Scheduler"
_TAINT = re.compile(r"untolerated taint(?:\(s\))?(?: \{([^:}\s]+)[^}]*\})?")
_RESOURCE = re.compile(r"Insufficient ([\w./-]*\w)")
_VOLUME = re.compile(
    r"persistentvolumeclaim|persistent volumes? to bind|binding volumes|storageclass", re.I
)
_TERMINATING = re.compile(r'persistentvolumeclaim "([^"]+)" is being deleted')
_ZONE = re.compile(r"volume node affinity conflict|PersistentVolume's node affinity")
_PREEMPTION = re.compile(r"\.? (?:no new claims to deallocate|preemption:)|\. not found\.?$")
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
PROVISIONING_SECONDS = 30.0
"""Time for which a new volume may be unbound without a warning: its provisioner creates it."""


def unscheduled(pod: Object, evidence: Evidence) -> Blocker | None:
    """Return the blocker of a pod that has no node, None if nothing is known to prevent it.

    While the volume is provisioned for the node that the scheduler chose, for up to ten minutes,
    the pod has no condition, or that of an earlier rejection.
    """
    if has_a_node(pod):
        return None
    message = refused_by_nodes(pod)
    if message is not None and _VOLUME.search(message):
        return _unbound(pod, message, evidence)
    if _provisioning_fails(pod, evidence):
        return _unbound(pod, "", evidence)
    if message is None:
        return None
    explanation = " ".join(_explanations(pod, message, evidence.placed_by))
    return Blocker(
        reason=Reason.UNSCHEDULABLE,
        message=quoting(explanation or "No node fits the pod.", SCHEDULER, _causes(message)),
        waits=True,
    )


def _causes(message: str) -> str:
    """Return a message of the scheduler without the part about preemption, which names no cause."""
    return _PREEMPTION.split(message)[0]


def _explanations(pod: Object, message: str, placed_by: str) -> Iterator[str]:
    """Yield an explanation of each cause that a user can remove, in whole sentences."""
    if _ZONE.search(message):
        yield (
            "No suitable node can mount the job's volume, which is bound to one zone or node. Free "
            "resources on a node that can mount the volume, or add a node to the zone of the "
            "volume. Otherwise, delete the job and create it again with spec.placement.zones."
        )
    elif resources := list(dict.fromkeys(_RESOURCE.findall(message))):
        yield _resources(pod, resources)
    else:
        taints = [taint for taint in dict.fromkeys(_TAINT.findall(message)) if taint]
        for taint in taints:
            if taint != _CONTROL_PLANE:
                yield (
                    f"The pod does not tolerate the taint {taint} of a node. To allow the pod "
                    "on this node, add a toleration to spec.placement.tolerations, or to the chart "
                    "value gpu.tolerations for all jobs."
                )
        if "didn't match Pod's node affinity/selector" in message:
            yield _labels(pod, placed_by)
        if "were unschedulable" in message:
            yield "A node is cordoned. To admit pods again, run: kubectl uncordon NODE."


def _resources(pod: Object, resources: Iterable[str]) -> str:
    """Return the explanation of missing resources; a device has a domain in its name."""
    devices = [name for name in resources if "/" in name]
    others = [name for name in resources if name not in devices]
    asked = [f"{name} {_requested(pod, name)}" for name in others]
    lower = f"Lower spec.resources.{naming.label(pod, naming.STAGE)}.requests"
    if devices and others:
        return (
            f"No suitable node has a free GPU ({names(devices)}) and enough free {names(others)}: "
            f"the pod requests {names(asked)}. {lower} if no node with a GPU has as much, or wait "
            "until a GPU becomes free."
        )
    if devices:
        return (
            f"No suitable node has a free GPU ({names(devices)}). The pod starts when a GPU "
            "becomes free, or when a node with a GPU is added. To see which pods hold the GPUs of "
            "a node, run: kubectl describe node NODE. A node offers its GPUs only if a device "
            "plugin runs on it."
        )
    return (
        f"No suitable node has enough free {names(resources)}. The pod requests {names(asked)}. "
        f"{lower}, or add a larger node."
    )


def _requested(pod: Object, resource: str) -> str:
    """Return the requests of a pod's containers for a resource."""
    amounts = [
        str(amount)
        for container in pod.get("spec", {}).get("containers", ())
        if (amount := container.get("resources", {}).get("requests", {}).get(resource))
    ]
    return " + ".join(amounts) or "of all its containers"


def _labels(pod: Object, placed_by: str) -> str:
    labels = list(required_labels(pod))
    if not labels:
        return "No node matches the node affinity of the pod."
    noun = "label" if len(labels) == 1 else "labels"
    return (
        f"No available node has the {noun} {names(labels)}, which {placed_by} requires. "
        "Set spec.placement.nodeSelector to a label that your nodes have, or label a node. "
        "To list the labels of the nodes, run: kubectl get nodes --show-labels."
    )


def required_labels(pod: Object) -> Iterator[str]:
    """Yield what the node selector and the required node affinity of a pod ask of labels.

    Terms of the affinity are alternatives, so all of them are one requirement.
    """
    spec = pod.get("spec", {})
    for key, value in sorted((spec.get("nodeSelector") or {}).items()):
        yield f"{key}={value}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        " and ".join(map(_expression, term.get("matchExpressions", ())))
        for term in required.get("nodeSelectorTerms", ())
    ]
    if terms:
        yield " or ".join(terms)


def _expression(expression: Mapping[str, Any]) -> str:
    key, values = expression["key"], [str(value) for value in expression.get("values") or ()]
    if expression["operator"] == "In" and len(values) == 1:
        return f"{key}={values[0]}"
    shown = f" ({', '.join(values)})" if values else ""
    return f"{key} {str(expression['operator']).lower()}{shown}"


def _events(pod: Object, evidence: Evidence) -> list[Object]:
    """Return the events about the volumes of a pod."""
    claims = claims_of(pod)
    return [event for event in evidence.events if events_of.regarding(event).get("name") in claims]


def _provisioning_fails(pod: Object, evidence: Evidence) -> bool:
    """Report whether a warning exists about a volume that is provisioned for a node."""
    claims = [claim for claim in map(evidence.volume, claims_of(pod)) if claim is not None]
    return any(
        naming.selected_node(claim) and claim.get("status", {}).get("phase") != "Bound"
        for claim in claims
    ) and any(event.get("type") == "Warning" for event in _events(pod, evidence))


def _unbound(pod: Object, message: str, evidence: Evidence) -> Blocker:
    """Return that a pod waits for its volume, with the cause from the volume's events."""
    events = _events(pod, evidence)
    cause = events_of.text(max(events, key=events_of.last_time)) if events else ""
    claim = next(iter(claims_of(pod)), "")
    explanation, certain = _volume(claim, evidence.volume(claim), f"{cause} {message}", pod)
    quoted = quoting(explanation, SCHEDULER, _causes(message))
    certain = certain or any(event.get("type") == "Warning" for event in events)
    return Blocker(
        reason=Reason.VOLUME_PENDING,
        message=quoting(quoted, f"PersistentVolumeClaim {claim}", cause),
        grace=0.0 if certain else PROVISIONING_SECONDS,
    )


def _volume(name: str, claim: Object | None, said: str, pod: Object) -> tuple[str, bool]:
    """Return why a PersistentVolumeClaim cannot be mounted, and whether this is certain.

    said: quoted messages.
    """
    namespace = pod["metadata"].get("namespace", "")
    storage_class = (claim or {}).get("spec", {}).get("storageClassName")
    choose = (
        "Set spec.storage.storageClassName to an existing StorageClass. To list them, run: kubectl "
        "get storageclass."
    )
    deleted = _TERMINATING.search(said)
    if deleted is not None or (claim is not None and "deletionTimestamp" in claim["metadata"]):
        name = deleted[1] if deleted is not None else name
        return (
            f"PersistentVolumeClaim {name} is terminating, so no new pod can mount it. The "
            "deletion cannot be canceled. For the pods that still use the claim, run: kubectl "
            f"describe pvc {name} -n {namespace}.",
            True,
        )
    missing = re.search(r'storageclass(?:\.storage\.k8s\.io)? "([^"]+)" not found', said)
    if missing is not None:
        return f"StorageClass {missing[1]} does not exist. {choose}", True
    if claim is not None and not storage_class:
        return (
            f"PersistentVolumeClaim {name} names no StorageClass, and the cluster has no default "
            f"StorageClass. {choose}",
            True,
        )
    of_class = f" of StorageClass {storage_class}" if storage_class else ""
    return (
        f"PersistentVolumeClaim {name}{of_class} is not bound. Check the provisioner and the free "
        "capacity of the StorageClass, or set spec.storage.storageClassName to another class. "
        f"For details, run: kubectl describe pvc {name} -n {namespace}.",
        False,
    )
