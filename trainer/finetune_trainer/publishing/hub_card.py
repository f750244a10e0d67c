"""The model card for a hub: that of the volume, with the metadata that hubs read.

A hub shows and searches models by the metadata at the beginning of README.md. The card is derived
from the volume alone, so that each attempt publishes the same one.
"""

import re
from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.checkpointing.published import LICENSE_FACT
from finetune_trainer.reporting import markdown

_FRONT_MATTER = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)
_KINDS = {
    "adapter": ("adapter", "peft", ("lora", "qlora", "sft")),
    "merged": ("finetune", "transformers", ("qlora", "sft")),
}
"""Relation to the base, library and tags by what is published."""


def render(
    job: JobConfig, what: str, text: str, *, trained: Mapping[str, Any], base: Mapping[str, Any]
) -> str:
    """Return the model card.

    text: of the card on the volume. trained: facts of the adapter's manifest. base: facts of that
    of the base.
    """
    relation, library, tags = _KINDS[what]
    metadata = markdown.metadata_of(job, base["source"], relation=relation)
    metadata |= {"library_name": library, "tags": [*tags, job.training.advanced.backend]}
    if license_ := base.get(LICENSE_FACT):
        metadata["license"] = license_
    if (loss := trained.get("evalLoss")) is not None:
        metadata["model-index"] = [_results(job, metadata, loss)]
    return f"---\n{markdown.yaml_text(metadata)}---\n{_FRONT_MATTER.sub('', text, count=1)}"


def _results(job: JobConfig, metadata: Mapping[str, Any], loss: float) -> dict[str, Any]:
    """Return the loss on the held-out rows in the form of the metadata ``model-index``."""
    own = job.evaluation_dataset
    rows = own if own is not None else job.dataset
    dataset = {
        "type": markdown.repository(rows.source),
        "name": "evaluation dataset" if own is not None else "held-out rows",
        "split": rows.split,
    }
    return {
        "name": job.name,
        "results": [
            {
                "task": {"type": metadata["pipeline_tag"]},
                "dataset": dataset,
                "metrics": [{"type": "loss", "name": "Held-out loss", "value": loss}],
            }
        ],
    }
