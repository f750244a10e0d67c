"""The check before a write that an object is owned by the reconciled object. Pure."""

from finetune_operator.kube.errors import NameConflict
from finetune_operator.objects.naming import (
    JOB,
    REUSE,
    REUSE_DOWNLOADS,
    VOLUME,
    label,
    owned_by,
)
from finetune_operator.types import Object


def require_owned(owner: Object, existing: Object) -> None:
    """Raise NameConflict if an object is not owned by the owner."""
    if not owned_by(owner, existing):
        kind, name = existing["kind"], existing["metadata"]["name"]
        if "deletionTimestamp" in existing["metadata"]:
            raise NameConflict(
                f"{kind} {name} of an earlier owner is being deleted, and this {owner['kind']} "
                "continues when it is gone. If this takes long, find what uses it with kubectl "
                f"describe {kind.lower()} {name}."
            )
        raise NameConflict(
            f"{kind} {name} exists and is not owned by this {owner['kind']} (it has no owner "
            f"reference to uid {owner['metadata']['uid']}). Delete or rename {kind} {name}, or "
            f"create the {owner['kind']} under another name."
            f"{_reuse(owner, existing)}"
        )


def _reuse(job: Object, existing: Object) -> str:
    """Return how to use a volume of an earlier job of this name, as the end of the message."""
    if existing["kind"] != VOLUME or label(existing, JOB) != job["metadata"]["name"]:
        return ""
    return (
        f" To train again with this volume, set its label {REUSE} to {REUSE_DOWNLOADS}. The job "
        "then reuses only verified downloads, and deletes all models, adapters and checkpoints on "
        "the volume."
    )
