"""What one merge reads and writes, verified before the first byte is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api.contracts.job_config import JobConfig
from finetune_api.contracts.stage_request import MergeStageRequest
from finetune_trainer.checkpointing import manifest, published
from finetune_trainer.compatibility import merged_dtype
from finetune_trainer.errors import NotMergeable, ResumeRefused
from finetune_trainer.models import base_files
from finetune_trainer.volume.files import read_json
from finetune_trainer.volume_layout import Layout

SHARD = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class MergeRequest:
    """One build: its inputs, its number format, and the key that identifies all of them."""

    job: JobConfig
    layout: Layout
    build: str
    dtype: str
    base: str
    key: str
    base_manifest: manifest.Manifest
    trained: manifest.Manifest
    images: Mapping[str, str]
    """Images of earlier stages, by stage."""

    @property
    def scratch(self) -> Path:
        """The folder that the merged model is written to before it is published."""
        return self.layout.scratch(f"merged-{self.build}")

    @property
    def identity(self) -> str:
        """Everything that the merged bytes depend on."""
        return f"{self.key} {self.dtype} {self.base_manifest.digest} {self.trained.digest}"

    @property
    def shards(self) -> list[str]:
        """Names of the base's weight files."""
        return [entry.name for entry in self.base_manifest.files if entry.name.endswith(SHARD)]

    @property
    def is_text_model(self) -> bool:
        """Whether the training extracted the text model of a multimodal base."""
        return published.TEXT_MODEL_FACT in self.trained.facts

    @property
    def other_files(self) -> list[manifest.Entry]:
        """The base's other files: configuration, tokenizer, index."""
        return [entry for entry in self.base_manifest.files if not entry.name.endswith(SHARD)]


def resolve(
    job: JobConfig,
    layout: Layout,
    requested: MergeStageRequest,
    *,
    key: str,
) -> MergeRequest:
    """Verify base and adapter on the volume and return what to merge.

    Raise ResumeRefused if one of them is missing or damaged, and NotMergeable if they do not belong
    together or contain pickles.
    """
    try:
        # The digests of the shards are checked later, while they are read for the merge.
        base_manifest = manifest.verify(
            layout.base,
            kind=published.BASE,
            key=job.digest,
            hashes=False,
            sha256=requested.base_manifest,
        )
        for entry in base_manifest.files:
            if not entry.name.endswith(SHARD):
                manifest.check_digest(layout.base, entry)
        trained = manifest.verify(
            layout.adapter,
            kind=published.ADAPTER,
            key=job.digest,
            sha256=requested.adapter_manifest,
        )
    except manifest.ManifestError as problem:
        raise ResumeRefused(
            f"{problem}: to prepare and train again, set spec.rerun to a new value"
        ) from problem
    _refuse_pickles(layout.base, base_manifest)
    _refuse_pickles(layout.adapter, trained)
    if trained.facts["baseCommit"] != base_manifest.facts["baseCommit"]:
        raise NotMergeable(
            f"the adapter was trained on commit {trained.facts['baseCommit']} of the base model, "
            f"but the volume contains commit {base_manifest.facts['baseCommit']}: to "
            "prepare and train again, set spec.rerun to a new value"
        )
    return MergeRequest(
        job=job,
        layout=layout,
        build=requested.build,
        dtype=merged_dtype.resolve(
            requested.dtype,
            read_json(layout.base / base_files.CONFIG),
            largest_activation=requested.largest_activation,
        ),
        base=requested.base,
        key=key,
        base_manifest=base_manifest,
        trained=trained,
        images=requested.images,
    )


def _refuse_pickles(folder: Path, listed: manifest.Manifest) -> None:
    pickles = [entry.name for entry in listed.files if entry.name.endswith(base_files.PICKLES)]
    if pickles:
        raise NotMergeable(
            f"{folder.name}/{pickles[0]} is a pickle. Pickles can run code and are never loaded: "
            "to prepare and train again, set spec.rerun to a new value"
        )
