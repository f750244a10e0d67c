"""The volume of a publish Job: a terminating one, and one that only one node can mount."""

from finetune_operator.objects.index import Child, IndexedSnapshot


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
