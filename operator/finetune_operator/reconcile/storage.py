"""The volume of a revision: create it, grow it, replace a claim that can never bind, own it."""

from collections.abc import Iterable

from finetune_api.quantity import amount
from finetune_operator.manifests.volume import outlives, render
from finetune_operator.objects import naming
from finetune_operator.revisions.target import TargetRevision
from finetune_operator.types import Action, Apply, Create, Object, Patch


def present(job: Object, revision: str, volumes: Iterable[Object]) -> Object | None:
    """Return the job's own volume of a revision, or None where there is none."""
    name = naming.revision_name(job["metadata"]["name"], revision)
    return next(
        (
            volume
            for volume in volumes
            if volume["metadata"]["name"] == name and naming.owned_by(job, volume)
        ),
        None,
    )


def ensure(job: Object, target: TargetRevision, volumes: Iterable[Object]) -> list[Action]:
    """Return what makes the volume be there, and be as large as the spec asks for.

    Somebody else's claim of that name is not taken for it: its creation is then refused.
    """
    wanted = render(job, target)
    found = present(job, target.revision, volumes)
    if found is None:
        return [Create(object=wanted)]
    if not _grows(found, wanted):
        return []
    wanted["spec"].pop("storageClassName", None)
    wanted["spec"]["accessModes"] = found["spec"]["accessModes"]
    wanted["metadata"].pop("ownerReferences", None)
    return [Apply(object=wanted)]


def misfit(job: Object, target: TargetRevision, volumes: Iterable[Object]) -> Object | None:
    """Return the volume if it is none yet: a claim that cannot become what the spec asks for.

    A claim that waits for a class that does not exist, or for more than there is, would wait for
    ever, and can be changed in nothing.
    """
    found = present(job, target.revision, volumes)
    if found is None or found.get("status", {}).get("phase") != "Pending":
        return None
    wanted = render(job, target)["spec"]
    asked = wanted.get("storageClassName")
    other_class = asked is not None and asked != found["spec"].get("storageClassName")
    sizes = [claim["resources"]["requests"]["storage"] for claim in (wanted, found["spec"])]
    return found if other_class or _differ(*sizes) else None


def owners(job: Object, target: TargetRevision, volumes: Iterable[Object]) -> list[Action]:
    """Return what gives each volume of the job an owner, or takes it, as its policy has it now."""
    actions: list[Action] = []
    for volume in volumes:
        metadata = volume["metadata"]
        if not naming.owned_by(job, volume) or "deletionTimestamp" in metadata:
            continue
        if (naming.controller_of(volume) is None) == outlives(target):
            continue
        others = [
            each
            for each in metadata.get("ownerReferences") or ()
            if each["uid"] != job["metadata"]["uid"]
        ]
        own = [] if outlives(target) else [naming.owner_reference(job)]
        changes = {
            "ownerReferences": [*others, *own],
            "labels": {naming.JOB_UID: job["metadata"]["uid"]},
        }
        actions.append(Patch(object=volume, changes={"metadata": changes}))
    return actions


def _grows(found: Object, wanted: Object) -> bool:
    """Tell whether a claim asks for more than one that is there."""
    sizes = [str(claim["spec"]["resources"]["requests"]["storage"]) for claim in (found, wanted)]
    try:
        return amount(sizes[0]) < amount(sizes[1])
    except ValueError:
        # Somebody resized it by hand, in a form that this API does not take: it is theirs now.
        return False


def _differ(one: str, other: str) -> bool:
    try:
        return amount(str(one)) != amount(str(other))
    except ValueError:
        return one != other
