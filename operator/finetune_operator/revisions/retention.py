"""Which revisions are kept, and how the others go: Jobs and their pods first, then the volume.

Kept are the revision that is asked for, those that serve or still have a serving pod, and as many
others as ``spec.revisionHistoryLimit`` says: trained ones before others, newer ones before older
ones. What is not kept leaves the ledger at once; what is left of it is told by its labels, so an
operator that dies half-way finishes the work.
"""

from collections.abc import Iterable

from finetune_operator.objects import naming
from finetune_operator.objects.jobs import is_over, pod_has_ended
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Delete, Object, Snapshot


def tidy(
    snapshot: Snapshot, target: TargetRevision, ledger: Ledger, *, serves: str | None
) -> list[Action]:
    """Return what takes away the revisions that are not kept, and drop them from the ledger.

    serves: the build that the Service selects, or None.
    """
    held = {target.revision}
    held |= {revision for each in snapshot.deployments if (revision := _revision(snapshot, each))}
    if serves is not None and (revision := ledger.revision_of(serves)):
        held.add(revision)
    others = sorted(
        (name for name in ledger.names() if name not in held),
        key=lambda name: ledger.completed(name, "train"),
    )
    limit = target.resolved.spec.revision_history_limit
    kept = held | set(others[max(0, len(others) - limit) :])
    for name in others:
        if name not in kept:
            ledger.forget(name)

    def gone(children: Iterable[Object]) -> list[Object]:
        return [
            child
            for child in children
            if (revision := _revision(snapshot, child)) and revision not in kept
        ]

    jobs = gone(snapshot.jobs)
    busy = {naming.label(each, naming.REVISION) for each in (*jobs, *_alive(snapshot.pods))}
    rest = [
        each
        for each in (*gone(snapshot.volumes), *gone(snapshot.configmaps))
        if naming.label(each, naming.REVISION) not in busy
    ]
    return [
        # One that has not ended is stopped with those of other revisions (``stages``).
        *(Delete(object=job) for job in jobs if _stays(job) and is_over(job)),
        *(Delete(object=each, propagation="Background") for each in rest if _stays(each)),
    ]


def _revision(snapshot: Snapshot, child: Object) -> str | None:
    return naming.label(child, naming.REVISION) if naming.owned_by(snapshot.job, child) else None


def _alive(pods: Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if not pod_has_ended(pod)]


def _stays(child: Object) -> bool:
    return "deletionTimestamp" not in child["metadata"]
