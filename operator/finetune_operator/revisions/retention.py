"""Which revisions are retained, and in which order the others are deleted.

Retained are the target revision, revisions that serve or still have a serving Deployment, those
that a Job publishes, and as many others as ``spec.revisionHistoryLimit`` allows: revisions with a
model before others, newer before older. Whatever the limit, one revision is retained whose model
can be served, if there is one. A revision without a volume that a new pod can mount cannot be
reverted to, and does not count. It stays in the ledger nevertheless, up to the same number: its
claim may be restored under its name, and a claim without a record would be deleted.

A revision that is not retained leaves the ledger when its volume can be deleted, so that a revert
before continues on this volume. The remaining objects are found by their labels, so an operator
that restarts halfway finishes the deletion.
"""

from collections.abc import Collection, Iterable

from finetune_operator.actions import Action, Delete
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.publishing import publications
from finetune_operator.revisions.target import TargetRevision


def prune(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    *,
    before: Ledger,
    serving: str | None,
    awaits_volume: bool,
) -> tuple[Ledger, tuple[Action, ...]]:
    """Return the ledger without pruned revisions, and the deletions of their objects.

    before: that of the previous status, because the new status lists what a Job has published
    before the revision is forgotten. serving: the build that the Service selects, or None. Jobs and
    their pods go first, then the volume, which their pods mount. If a user deletes a volume, the
    Jobs that keep it go as well.
    awaits_volume: whether the target waits until its terminating volume is gone.
    """
    held = {target.revision}
    held |= {
        deployment.revision
        for deployment in snapshot.deployments
        if deployment.owned and deployment.revision
    }
    held |= {
        revision for known in (before, ledger) for revision, _ in publications.under_way(known)
    }
    if serving is not None and (revision := ledger.revision_of(serving)):
        held.add(revision)
    others = [name for name in ledger.names() if name not in held]
    limit = target.resolved.spec.revision_history_limit
    retained = held | _retained(snapshot, ledger, held, others, limit)

    def pruned(children: Iterable[Child]) -> list[Child]:
        return [
            child
            for child in children
            if child.owned and child.revision and child.revision not in retained
        ]

    jobs = pruned(snapshot.jobs)
    living = (pod for pod in snapshot.pods if not pod.ended)
    busy = {user.revision for user in (*jobs, *living)}
    volumes = pruned(snapshot.volumes)
    mounted = {
        volume.revision for volume in volumes if volume.revision in busy and not volume.terminating
    }
    unused = [
        child
        for child in (*volumes, *pruned(snapshot.configmaps))
        if child.revision not in busy and not child.terminating
    ]
    given_up = _given_up(snapshot, {target.revision} if awaits_volume else set())
    needless = [
        *jobs,
        *(
            job
            for job in snapshot.jobs
            if job.owned and job.revision in retained and job.revision in given_up
        ),
    ]
    deletions: tuple[Action, ...] = (
        # ``cancellation`` deletes the Jobs that have not finished.
        *(Delete(object=job.object) for job in needless if job.ended and not job.terminating),
        *(Delete(object=child.object, propagation="Background") for child in unused),
    )
    return ledger.without(name for name in others if name not in retained | mounted), deletions


def newest_model(
    snapshot: IndexedSnapshot, ledger: Ledger, *, but: str | None = None
) -> str | None:
    """Return the newest revision whose model can be served, or None. but: another revision."""
    models = (
        name
        for name in reversed(ledger.names())
        if name != but and snapshot.can_be_mounted(name) and ledger.has_model(name)
    )
    return next(models, None)


def _retained(
    snapshot: IndexedSnapshot,
    ledger: Ledger,
    held: Iterable[str],
    others: Iterable[str],
    limit: int,
) -> set[str]:
    """Return the revisions that are retained in addition to the held ones. limit: their number."""
    # After a restore, a claim that is missing may still follow.
    usable = [
        name
        for name in others
        if snapshot.can_be_mounted(name) or (snapshot.restored and snapshot.volume(name) is None)
    ]
    usable.sort(key=lambda name: (ledger.has_model(name), ledger.is_trained(name)))
    retained = usable[max(0, len(usable) - limit) :]
    absent = [name for name in others if name not in usable and ledger.has_model(name)]
    models = (
        name
        for name in (*held, *retained)
        if snapshot.can_be_mounted(name) and ledger.has_model(name)
    )
    newest = newest_model(snapshot, ledger)
    if newest is not None and not any(models):
        retained.append(newest)
    return {*retained, *absent[max(0, len(absent) - limit) :]}


def _given_up(snapshot: IndexedSnapshot, awaited: Collection[str]) -> set[str | None]:
    """Return the revisions whose volume a user deleted, and that have no pods which should serve.

    Kubernetes deletes a volume after all pods that mount it, even those that have ended. Those keep
    the files until the user gives up the serving pods, or, if awaited, until nothing reads them.
    """
    serving = {
        deployment.revision
        for deployment in snapshot.deployments
        if deployment.owned
        and not deployment.terminating
        and deployment.object["spec"].get("replicas")
    }
    terminating = {
        volume.revision for volume in snapshot.volumes if volume.owned and volume.terminating
    }
    return {revision for revision in terminating if revision in awaited or revision not in serving}
