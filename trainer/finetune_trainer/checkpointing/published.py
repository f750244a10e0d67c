"""The folders that one stage publishes for the next: their kinds, and names of their facts.

The manifest contains the kind, so that no folder is mistaken for another.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.checkpointing import manifest
from finetune_trainer.volume_layout import Layout

BASE = "base"
DATASET = "dataset"
ADAPTER = "adapter"

CHAT_TEMPLATE = "chat_template.jinja"
"""File in the dataset's folder if the training renders rows with another chat template than the
base's."""

EVALUATION_FACT = "evaluationDataset"
ESTIMATE_FACT = "estimate"
TEMPLATE_FACT = "templateDigest"
"""Facts in the dataset's manifest."""
BASE_BLAKE3_FACT = "baseBlake3"
"""Fact in the adapter's manifest: BLAKE3 (hex) of each file of the base."""
TEXT_MODEL_FACT = "textModel"
"""Fact in the adapter's manifest if the base is multimodal: its text model, which was trained alone
(``tensor_names.extraction``). Without it, the names in the adapter are those of the whole base."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Facts about earlier stages, as the operator recorded them.

    base, dataset, adapter: SHA-256 (hex) of the manifests that they published. None accepts any
    manifest: a stage that was started by hand has no ledger. images: the images that they ran, by
    stage, as the container runtime resolved them.
    """

    base: str | None = None
    dataset: str | None = None
    adapter: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)


NO_LEDGER = Ledger()


def add_options(command: argparse.ArgumentParser, *folders: str) -> None:
    """Add options for the ledger to a command: the digest of each folder, and images."""
    for folder in folders:
        command.add_argument(
            f"--{folder}-manifest",
            help=f"expected SHA-256 of {folder}/manifest.json, in hex. The command fails if the "
            "digest differs. Without this option, the digest is not checked.",
        )
    command.add_argument(
        "--image",
        action="append",
        default=[],
        type=_image,
        metavar="STAGE=IMAGE",
        help="image in which an earlier stage ran. The model card lists it. Repeat the option for "
        "each stage.",
    )


def from_options(options: argparse.Namespace) -> Ledger:
    """Return the ledger of a command with the options of ``add_options``."""
    values = vars(options)
    return Ledger(
        base=values.get("base_manifest"),
        dataset=values.get("dataset_manifest"),
        adapter=values.get("adapter_manifest"),
        images=dict(options.image),
    )


def _image(text: str) -> tuple[str, str]:
    stage, _, image = text.partition("=")
    return stage, image


def prepared(
    layout: Layout, job: JobConfig, *, hashes: bool
) -> tuple[manifest.Manifest, manifest.Manifest] | None:
    """Return the manifests of base and dataset, or None unless both are intact.

    Without ``hashes``, only names and sizes of the base's files are compared.
    """
    try:
        return verify_prepared(layout, job, NO_LEDGER, hashes=hashes)
    except manifest.ManifestError:
        return None


def verify_prepared(
    layout: Layout, job: JobConfig, ledger: Ledger, *, hashes: bool
) -> tuple[manifest.Manifest, manifest.Manifest]:
    """Return the manifests of base and dataset. Raise ManifestError unless both are intact."""
    base = manifest.verify(
        layout.base, kind=BASE, key=job.digest, hashes=hashes, sha256=ledger.base
    )
    dataset = manifest.verify(layout.dataset, kind=DATASET, key=job.digest, sha256=ledger.dataset)
    return base, dataset
