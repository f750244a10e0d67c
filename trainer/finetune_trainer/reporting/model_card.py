"""The adapter's README.md: where it comes from, how it was trained, how it went.

It begins with the metadata that a hub reads. It describes the adapter and is no part of what the
adapter's digest covers: two runs of equal recipe and data make equal adapters in different times.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.reporting.loss_history import Curves
from finetune_trainer.runtime.progress import duration

FILE = "README.md"
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a finished training knows of itself.

    ``base`` and ``data`` are the facts of the staged folders' manifests, ``trained`` those of the
    adapter's. ``peak`` is the most GPU memory that was allocated, in bytes; None on a CPU.
    ``plotted`` is the picture's file, None where there is none.
    """

    job: JobConfig
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    trained: Mapping[str, Any]
    curves: Curves
    peak: int | None
    plotted: str | None = None


def render(story: Story) -> str:
    """Return the card."""
    job, trained = story.job, story.trained
    base = _repository(story.base["source"])
    parts = [
        _front_matter(story),
        f"# {job.name}\n",
        f"A QLoRA adapter for `{base}`, trained on `{job.dataset.source}` by the FineTuneJob "
        f"`{job.namespace}/{job.name}`, revision `{job.revision}`.\n",
        _usage(base, story.base["baseCommit"]),
        "## How it went\n",
        f"![Loss over the steps]({story.plotted})\n" if story.plotted else "",
        _table(_outcome(story)),
        _curve(story.curves),
        "## Estimate and reality\n",
        _table(_reality(story), header=("", "estimated", "measured")),
        "## Provenance\n",
        _table(_provenance(story)),
        "## Versions\n",
        _table((name, version) for name, version in sorted(trained["versions"].items())),
        "## Recipe\n",
        "As it was resolved: the job's words over the administrator's and the built-in values.\n",
        "```yaml\n" + _yaml(_recipe(job)) + "```\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(story: Story) -> str:
    job = story.job
    metadata: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "qlora", "sft", job.training.advanced.backend],
    }
    # A hub takes names of repositories only.
    if story.base["source"].startswith("hf://"):
        metadata["base_model"] = _repository(story.base["source"])
        metadata["base_model_relation"] = "adapter"
    if job.dataset.source.startswith("hf://"):
        metadata["datasets"] = [_repository(job.dataset.source)]
    return f"---\n{_yaml(metadata)}---\n"


def _usage(base: str, commit: str) -> str:
    return f"""## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}", revision="{commit[:12]}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}", revision="{commit[:12]}")
```
"""


def _outcome(story: Story) -> Iterable[tuple[str, str]]:
    trained, data = story.trained, story.data
    yield "steps", f"{trained['globalStep']:,}"
    yield "training loss, last step", _number(trained["loss"])
    yield "loss on held-out rows", _number(trained["evalLoss"])
    yield "rows trained on", f"{data['rows']:,}"
    own = data.get("evaluationDataset")
    yield "rows evaluated on" if own else "rows held out", f"{data['validationRows']:,}"
    yield "rows dropped as too long", f"{data['droppedRows']:,}"
    yield "tokens of one epoch", f"{data['trainTokens']:,}"
    yield "of which learned", f"{data['trainedTokens']:,}"


def _curve(curves: Curves) -> str:
    """Return some points of the losses as a table, for readers without the picture."""
    losses, held_out = curves["loss"], dict(curves["evalLoss"])
    if not losses:
        return ""
    every = max(1, len(losses) // 10)
    shown = dict([*losses[::every], losses[-1]])
    steps = sorted(set(shown) | set(held_out))
    known = dict(losses)
    rows = ((str(at), _number(known.get(at)), _number(held_out.get(at))) for at in steps)
    return _table(rows, header=("step", "training loss", "held-out loss"))


def _reality(story: Story) -> Iterable[tuple[str, str, str]]:
    estimate = story.data.get("estimate") or {}
    micro = story.trained["microBatch"]
    yield "micro-batch", str(estimate.get("microBatch", "–")), str(micro)
    yield "GPU memory", _gib(estimate.get("trainingBytes")), _gib(story.peak)
    yield (
        "training time",
        duration(estimate.get("seconds")) if estimate.get("seconds") else "–",
        f"{duration(story.trained['gpuSeconds'])}, all attempts and their starts included",
    )
    yield "card", str(estimate.get("card") or "–"), str(story.trained["device"])


def _provenance(story: Story) -> Iterable[tuple[str, str]]:
    job, data, trained = story.job, story.data, story.trained
    yield "base", f"`{story.base['source']}`"
    yield "base commit", f"`{story.base['baseCommit']}`"
    yield "dataset", f"`{job.dataset.source}`"
    if data.get("commit"):
        yield "dataset commit", f"`{data['commit']}`"
    yield "dataset as published", f"`{data['sourceDigest']}`"
    if own := data.get("evaluationDataset"):
        yield "evaluation dataset", f"`{own['source']}`"
        yield "evaluation dataset commit", f"`{own['commit']}`"
        yield "evaluation dataset as published", f"`{own['sourceDigest']}`"
    yield "dataset as tokenized", f"`{trained['datasetDigest']}`"
    yield "prompt", str(data["template"] or "text as it is")
    yield "attention kernel", str(trained["attention"])


def _recipe(job: JobConfig) -> dict[str, Any]:
    """Return what was trained without what is not set and what is a secret's name."""
    parts = ("model", "dataset", "evaluation_dataset")
    document = job.model_dump(mode="json", exclude={name: {"token_secret_ref"} for name in parts})
    recipe = {name: document[name] for name in ("model", "dataset", "training")}
    if own := document["evaluationDataset"]:
        recipe["evaluation"] = {"dataset": own}
    return {name: _without_nulls(part) for name, part in recipe.items()}


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return {key: inner for key, inner in kept.items() if inner != {}}


def _table(rows: Iterable[tuple[str, ...]], *, header: tuple[str, ...] = ("", "")) -> str:
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _repository(source: str) -> str:
    return source.removeprefix("hf://")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / GIB:.2f} GiB"


def _yaml(value: Any) -> str:
    # Strings that YAML could read as something else are quoted by the dumper itself.
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)
