"""The folders that one stage publishes for the next: their kinds, and names of their facts.

The manifest contains the kind, so that no folder is mistaken for another.
"""

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.checkpointing import manifest
from finetune_trainer.volume_layout import Layout

BASE = "base"
START = "start"
DATASET = "dataset"
ADAPTER = "adapter"
MERGED = "merged"

CHAT_TEMPLATE = "chat_template.jinja"
"""File in the dataset's folder if the training renders rows with another chat template than the
base's."""
QUANTIZATION = "quantization.safetensors"
"""File in the adapter's folder: the scales of the 4-bit weights that the training used."""
LICENSE_FACT = "license"
"""Fact in the base's manifest: the licence that its repository on a hub states."""
ORIGINS_FACT = "origins"
ESTIMATE_FACT = "estimate"
TEMPLATE_FACT = "templateDigest"
"""Facts in the dataset's manifest."""
START_FACT = "startFrom"
"""Fact in the manifests of dataset and adapter if the training continues from another adapter:
where that is from (``preparation.prepare_start``)."""
TEXT_MODEL_FACT = "textModel"
"""Fact in the adapter's manifest if the base is multimodal: its text model, which was trained alone
(``tensor_names.extraction``). Without it, the names in the adapter are those of the whole base."""


def prepared(
    layout: Layout, job: JobConfig, *, hashes: bool
) -> tuple[manifest.Manifest, manifest.Manifest] | None:
    """Return the manifests of base and dataset, or None unless both are intact.

    Without ``hashes``, only names and sizes of the base's files are compared.
    """
    try:
        return verify_prepared(layout, job, hashes=hashes)
    except manifest.ManifestError:
        return None


def verify_prepared(
    layout: Layout,
    job: JobConfig,
    *,
    hashes: bool,
    base: str | None = None,
    dataset: str | None = None,
) -> tuple[manifest.Manifest, manifest.Manifest]:
    """Return the manifests of base and dataset. Raise ManifestError unless both are intact.

    The dataset's manifest names that of the adapter to continue from, which is verified as well.

    base, dataset: SHA-256 (hex) of their manifests, as in a stage request; None accepts any.
    """
    manifests = (
        manifest.verify(layout.base, kind=BASE, key=job.digest, hashes=hashes, sha256=base),
        manifest.verify(layout.dataset, kind=DATASET, key=job.digest, sha256=dataset),
    )
    start = manifests[1].facts.get(START_FACT)
    if start is not None:
        manifest.verify(layout.start, kind=START, key=job.digest, sha256=start["manifest"])
    return manifests
