"""The model card (README.md) of a merged model: its origin.

The digest of the merged model does not cover it. The results of the training are in the card of the
adapter. No stage can name its own image, so the image of the merge is in the ledger only.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.safety.redaction import mask
from finetune_trainer.checkpointing.published import START_FACT
from finetune_trainer.reporting import markdown


def render(job: JobConfig, build: str, facts: Mapping[str, Any]) -> str:
    """Return the model card as Markdown. facts: of the manifest of the merged model."""
    base = markdown.repository(facts["source"])
    parts = [
        markdown.front_matter(
            job,
            facts["source"],
            relation="finetune",
            library_name="transformers",
            tags=["qlora", "sft", job.training.advanced.backend],
        ),
        f"# {job.name}\n",
        f"`{base}`, fine-tuned on {markdown.sources_of(job)} by the FineTuneJob "
        f"`{job.namespace}/{job.name}`, revision `{job.revision}`, build `{build}`.\n",
        "## Provenance\n",
        markdown.table(_provenance(facts)),
        "The status of the FineTuneJob (`status.revisions`) records the digest of this folder, and "
        "the image of each stage.\n",
    ]
    return mask("\n".join(parts))


def _provenance(facts: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield "base", f"`{facts['source']}`"
    yield "base commit", f"`{facts['baseCommit']}`"
    yield from markdown.continued_from(facts.get(START_FACT))
    yield "base weights", str(facts["base"])
    yield "tokenized dataset digest", f"`{facts['datasetDigest']}`"
    yield "adapter digest", f"`{facts['adapter']}`"
    yield "data type", str(facts["dtype"])
    yield from markdown.images(facts["images"])
