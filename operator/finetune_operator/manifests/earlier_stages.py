"""Arguments of a stage about what happened before: digests of folders, images, earlier jobs."""

from finetune_api.v1alpha1.ledger import Artifacts, Revision
from finetune_operator.objects.stages import Stage

EARLIER: dict[Stage, tuple[Stage, ...]] = {
    "prepare": (),
    "train": ("prepare",),
    "merge": ("prepare", "train"),
}


def manifests(stage: Stage, artifacts: Artifacts) -> list[str]:
    """Return the digests; the stage rejects folders with other manifests.

    artifacts: of the revision, from the ledger. A digest that it does not have is passed as an
    empty text, which no manifest has.
    """
    base = {"--base-manifest": artifacts.base_manifest}
    required = {
        "prepare": {},
        "train": base | {"--dataset-manifest": artifacts.dataset_manifest},
        "merge": base | {"--adapter-manifest": artifacts.adapter_manifest},
    }
    return [word for name, each in required[stage].items() for word in (name, each or "")]


def volume(stage: Stage, revision: Revision) -> list[str]:
    """Return the argument of prepare about a volume that an earlier job used."""
    untrusted = stage == "prepare" and revision.untrusted_volume is not None
    return ["--untrusted-volume"] if untrusted else []


def images(stage: Stage, revision: Revision) -> list[str]:
    """Return the images of the earlier stages, which the stage writes into its model card.

    The container runtime resolves the image of a pod when the pod starts, so a stage cannot be
    given its own.
    """
    return [
        word
        for each in revision.stages
        if each.stage in EARLIER[stage] and each.image_id is not None
        for word in ("--image", f"{each.stage}={each.image_id}")
    ]
