"""The folders that one stage publishes for the next: their kinds, and names of their facts.

The manifest contains the kind, so that no folder is mistaken for another.
"""

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


def prepared(
    layout: Layout, job: JobConfig, *, hashes: bool
) -> tuple[manifest.Manifest, manifest.Manifest] | None:
    """Return the manifests of base and dataset, or None unless both are intact.

    Without ``hashes``, only names and sizes of the base's files are compared.
    """
    base = manifest.valid(layout.base, kind=BASE, key=job.digest, hashes=hashes)
    dataset = manifest.valid(layout.dataset, kind=DATASET, key=job.digest)
    return None if base is None or dataset is None else (base, dataset)
