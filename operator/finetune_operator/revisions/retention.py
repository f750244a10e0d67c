"""Which revisions are retained, and in which order the others are deleted.

Retained are the target revision, revisions that serve or still have a serving Deployment, and as
many others as ``spec.revisionHistoryLimit`` allows: trained revisions before others, newer before
older. A revision that is not retained leaves the ledger when its volume can be deleted, so that a
revert before continues on this volume. The remaining objects are found by their labels, so an
operator that restarts halfway finishes the deletion.
"""

from collections.abc import Iterable

from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Delete


def prune(
    snapshot: IndexedSnapshot, target: TargetRevision, ledger: Ledger, *, serving: str | None
) -> tuple[Ledger, tuple[Action, ...]]:
    """Return the ledger without pruned revisions, and the deletions of their objects.

    serving: the build that the Service selects, or None. Jobs and their pods go first, then the
    volume, which their pods mount.
    """
    held = {target.revision}
    held |= {each.revision for each in snapshot.deployments if each.owned and each.revision}
    if serving is not None and (revision := ledger.revision_of(serving)):
        held.add(revision)
    others = sorted(
        (name for name in ledger.names() if name not in held),
        key=lambda name: ledger.completed(name, "train"),
    )
    limit = target.resolved.spec.revision_history_limit
    retained = held | set(others[max(0, len(others) - limit) :])

    def pruned(children: Iterable[Child]) -> list[Child]:
        return [
            child
            for child in children
            if child.owned and child.revision and child.revision not in retained
        ]

    jobs = pruned(snapshot.jobs)
    living = (pod for pod in snapshot.pods if not pod.ended)
    busy = {each.revision for each in (*jobs, *living)}
    volumes = pruned(snapshot.volumes)
    mounted = {each.revision for each in volumes if each.revision in busy and not each.terminating}
    rest = [each for each in (*volumes, *pruned(snapshot.configmaps)) if each.revision not in busy]
    deletions: tuple[Action, ...] = (
        # ``cancellation`` deletes the Jobs that have not finished.
        *(Delete(object=job.object) for job in jobs if job.ended and not job.terminating),
        *(
            Delete(object=each.object, propagation="Background")
            for each in rest
            if not each.terminating
        ),
    )
    return ledger.without(name for name in others if name not in retained | mounted), deletions
