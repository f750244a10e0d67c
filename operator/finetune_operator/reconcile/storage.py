"""The volume of a revision: create it, grow it, replace a claim that can never bind, own it.

A job that was restored from a backup has a new uid, and its claims may have new uids, too. The
status names the earlier ones, by which the claims are found, until the job owns the claims of all
revisions in the ledger.

A claim of an earlier job that the status does not name is another owner's. A job uses it only if
its label allows that, and then as a volume with unknown content (``naming.may_adopt``).
"""

from collections.abc import Iterable
from typing import Any

from finetune_api.quantity import amount
from finetune_operator.actions import Action, Apply, Create, Patch
from finetune_operator.manifests.volume import outlives, render
from finetune_operator.objects import naming
from finetune_operator.objects.index import Child, IndexedSnapshot
from finetune_operator.objects.stages import JobStage
from finetune_operator.revisions.ledger import Ledger
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Object


def ensure(job: Object, target: TargetRevision, present: Object | None) -> list[Action]:
    """Return the actions that create the volume, or grow it to the size that the spec asks for.

    present: the job's own volume of the revision. If another owner has a claim of that name, the
    creation fails with NameConflict.
    """
    desired = render(job, target)
    if present is None:
        return [Create(object=desired)]
    if not _grows(present, desired):
        return []
    desired["spec"].pop("storageClassName", None)
    desired["spec"]["accessModes"] = present["spec"]["accessModes"]
    desired["metadata"].pop("ownerReferences", None)
    return [Apply(object=desired)]


def to_start(
    snapshot: IndexedSnapshot,
    target: TargetRevision,
    ledger: Ledger,
    stage: JobStage,
    *,
    vouched: bool,
) -> tuple[Ledger, list[Action]]:
    """Return the ledger and the actions with which a stage that starts has its volume.

    vouched: whether the ledger recorded a start of the revision before its present claim existed.
    If not, the content of the claim is unknown: the claim comes from a backup or another client.
    """
    volume = snapshot.volume(target.revision)
    claim = volume.object if volume is not None else None
    earlier = _adoptable(snapshot, target.revision)
    if claim is None and stage.reads_sources and earlier is not None:
        uid = earlier["metadata"]["uid"]
        actions: list[Action] = [_adoption(snapshot.job, target, earlier)]
        return ledger.with_untrusted_volume(target.revision, uid), actions
    if claim is None:
        ledger = ledger.with_untrusted_volume(target.revision, None)
    elif not vouched:
        ledger = ledger.with_untrusted_volume(target.revision, claim["metadata"]["uid"])
    return ledger, ensure(snapshot.job, target, claim)


def _adoptable(snapshot: IndexedSnapshot, revision: str) -> Object | None:
    """Return the claim of an earlier job of the name that the job may use for a revision."""
    for volume in snapshot.volumes:
        if (
            volume.name == naming.revision_name(snapshot.name, revision)
            and volume.revision == revision
            and naming.may_adopt(snapshot.job, volume.object)
            and not volume.terminating
        ):
            return volume.object
    return None


def _adoption(job: Object, target: TargetRevision, claim: Object) -> Patch:
    """Return the patch that makes the job the owner of an adoptable claim, and grows it."""
    owned, desired = _owner(job, target, claim), render(job, target)
    owned["labels"] = {**owned["labels"], naming.REUSE: None}
    larger = {"resources": {"requests": dict(desired["spec"]["resources"]["requests"])}}
    grown = {"spec": larger} if _grows(claim, desired) else {}
    return Patch(object=claim, changes={"metadata": owned, **grown})


def misfit(job: Object, target: TargetRevision, present: Object | None) -> Object | None:
    """Return the volume if it is a pending claim that can never become what the spec asks for.

    A claim whose StorageClass does not exist, or whose size is not available, stays pending for
    ever, and nothing in it can be changed.
    """
    if present is None or present.get("status", {}).get("phase") != "Pending":
        return None
    desired = render(job, target)["spec"]
    asked = desired.get("storageClassName")
    other_class = asked is not None and asked != present["spec"].get("storageClassName")
    sizes = [claim["resources"]["requests"]["storage"] for claim in (desired, present["spec"])]
    return present if other_class or _differ(*sizes) else None


def owners(job: Object, target: TargetRevision, volumes: Iterable[Child]) -> tuple[Action, ...]:
    """Return the patches that add or remove the owner of each volume, by ``deletionPolicy``."""
    return tuple(
        Patch(object=volume.object, changes={"metadata": _owner(job, target, volume.object)})
        for volume in volumes
        if volume.owned
        and not volume.terminating
        and not _names_its_owner(job, target, volume.object)
    )


def with_restored(snapshot: IndexedSnapshot, ledger: Ledger) -> Ledger:
    """Return the ledger with the restored claims in place of those in the backup.

    If data preparation had not completed, no digest vouches for a file on the claim.
    """
    if not snapshot.restored:
        return ledger
    own = snapshot.job["metadata"]["uid"]
    for revision in ledger.names():
        volume = snapshot.volume(revision)
        if volume is not None and ledger.revision(revision).volume is not None:
            ledger = ledger.with_volume(revision, volume.uid)
        elif volume is not None and naming.label(volume.object, naming.JOB_UID) != own:
            ledger = ledger.with_untrusted_volume(revision, volume.uid)
    return ledger


def volume_owners(snapshot: IndexedSnapshot, ledger: Ledger) -> list[str]:
    """Return the uids of the jobs whose volumes belong to the job, for the status.

    The uid of the job is in the status before any claim names it.
    """
    own: str = snapshot.job["metadata"]["uid"]
    complete = all(snapshot.volume(revision) is not None for revision in ledger.names())
    # A claim can be newer than the ledger in the backup.
    labeled = all(
        naming.label(volume.object, naming.JOB_UID) == own
        for volume in snapshot.own_volumes.values()
    )
    if not snapshot.restored or (complete and labeled):
        return [own]
    return list(dict.fromkeys([*snapshot.previous.volume_owners, own]))


def _names_its_owner(job: Object, target: TargetRevision, volume: Object) -> bool:
    """Report whether a volume has the label of the job, and the owner that it should have."""
    own = job["metadata"]["uid"]
    references = volume["metadata"].get("ownerReferences") or ()
    owners = [
        reference
        for reference in references
        if reference["uid"] == own or reference.get("controller")
    ]
    expected = [] if outlives(target) else [naming.owner_reference(job)]
    return naming.label(volume, naming.JOB_UID) == own and owners == expected


def _owner(job: Object, target: TargetRevision, volume: Object) -> dict[str, Any]:
    uid, controller = job["metadata"]["uid"], naming.controller_of(volume)
    owners = {uid} if controller is None else {uid, controller["uid"]}
    references = volume["metadata"].get("ownerReferences") or ()
    others = [reference for reference in references if reference["uid"] not in owners]
    own = [] if outlives(target) else [naming.owner_reference(job)]
    return {"ownerReferences": [*others, *own], "labels": {naming.JOB_UID: uid}}


def _grows(present: Object, desired: Object) -> bool:
    """Report whether a claim asks for a larger size than the present one."""
    sizes = [str(claim["spec"]["resources"]["requests"]["storage"]) for claim in (present, desired)]
    try:
        return amount(sizes[0]) < amount(sizes[1])
    except ValueError:
        # A user resized it in a form that this API does not parse; it is left alone.
        return False


def _differ(desired: str, present: str) -> bool:
    try:
        return amount(str(desired)) != amount(str(present))
    except ValueError:
        return desired != present
