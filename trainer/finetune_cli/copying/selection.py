"""Selects what to copy from the status of a FineTuneJob. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from finetune_api import KIND
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_api.v1alpha1.status.ledger import Revision
from finetune_cli.errors import CommandFailed
from finetune_trainer.volume_layout import Layout

Part = Literal["adapter", "merged"]
MOUNT = Path("/work")
STAGE_OF_PART: Mapping[Part, str] = {"adapter": "train", "merged": "merge"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A published folder on the volume of a revision."""

    revision: str
    part: Part
    folder: str
    """Absolute path in the copy pod."""
    digest: str | None
    """Digest of its content in the ledger; None if the ledger has none for this folder."""
    manifest: str | None = None
    """SHA-256 (hex) of its manifest.json in the ledger; None if the ledger has none."""


def select(job: Mapping[str, Any], part: Part, revision: str | None) -> Selection:
    """Return the folder to copy.

    Without ``revision``, the revision of the current spec is selected if it has the part, otherwise
    the serving revision, otherwise the newest one with the part. Raises CommandFailed.
    """
    name = job["metadata"]["name"]
    try:
        status = FineTuneJobStatus.model_validate(job.get("status") or {})
    except ValidationError:
        raise CommandFailed(
            f"ftj cannot read the status of {KIND} {name}, because ftj and the operator have "
            "different versions: install ftj in the version of the operator"
        ) from None
    records = {record.revision: record for record in status.revisions}
    if revision is not None:
        if not records:
            raise CommandFailed(
                f"{KIND} {name} has no revision yet: wait until the {STAGE_OF_PART[part]} stage is "
                "completed"
            )
        if revision not in records:
            raise CommandFailed(
                f"{KIND} {name} has no revision {revision}: set --revision to one of "
                + ", ".join(records)
            )
        candidates = [records[revision]]
    else:
        order = (status.revision, status.serving.revision, *reversed(records))
        candidates = [records[wanted] for wanted in dict.fromkeys(order) if wanted in records]
    for candidate in candidates:
        if builds := _builds(candidate, part):
            return _selection(candidate, part, builds, (status.serving.build, status.build))
    raise CommandFailed(_absent(name, part, candidates, revision))


def _builds(revision: Revision, part: Part) -> list[str | None]:
    """Return the builds whose stage for a part is completed; None for an adapter."""
    return [
        stage.build
        for stage in revision.stages
        if stage.stage == STAGE_OF_PART[part] and stage.outcome == "Completed"
    ]


def _selection(
    revision: Revision, part: Part, builds: list[str | None], preferred: tuple[str | None, ...]
) -> Selection:
    layout, recorded = Layout(work=MOUNT), revision.artifacts.adapter_manifest
    if part == "adapter":
        folder, digest = layout.adapter, revision.artifacts.adapter
    else:
        build = next((candidate for candidate in preferred if candidate in builds), builds[-1])
        folder = layout.merged(str(build))
        # The ledger keeps one digest: with several builds it may be that of another one.
        digest = revision.artifacts.merged if len(builds) == 1 else None
        recorded = _merged_manifest(revision, build)
    return Selection(
        revision=revision.revision,
        part=part,
        folder=str(folder),
        digest=digest,
        manifest=recorded,
    )


def _merged_manifest(revision: Revision, build: str | None) -> str | None:
    merges = (stage for stage in revision.stages if stage.stage == "merge" and stage.build == build)
    return next((merge.merged_manifest for merge in merges if merge.outcome == "Completed"), None)


def _absent(name: str, part: Part, candidates: list[Revision], revision: str | None) -> str:
    which = f"revision {revision} of {KIND} {name}" if revision else f"{KIND} {name}"
    text = f"{which} has no {'merged model' if part == 'merged' else 'trained adapter'} yet"
    if part == "merged" and any(_builds(candidate, "adapter") for candidate in candidates):
        return f"{text}: wait until the merge stage is completed, or copy the adapter (--adapter)"
    return f"{text}: wait until the {STAGE_OF_PART[part]} stage is completed"
