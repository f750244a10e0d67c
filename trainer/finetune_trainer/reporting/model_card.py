"""The model card (README.md) of the adapter: origin, recipe and results.

It starts with the metadata block that a model hub reads. The adapter's digest does not cover it:
equal recipes and data give equal adapters, but different training times.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_api.durations import duration, estimated
from finetune_api.safety.redaction import mask
from finetune_trainer.checkpointing.published import ORIGINS_FACT, START_FACT, TEXT_MODEL_FACT
from finetune_trainer.reporting import markdown
from finetune_trainer.reporting.loss_history import LossHistory

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Facts of a completed training.

    base, data: facts of the prepared folders' manifests. trained: facts of the adapter's manifest.
    peak: peak of allocated GPU memory in bytes, None on a CPU. template: file name of the chat
    template, None if that of the base is used. plotted: file name of the loss plot, None if there
    is none.
    """

    job: JobConfig
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    trained: Mapping[str, Any]
    history: LossHistory
    peak: int | None
    template: str | None = None
    plotted: str | None = None


def render(report: TrainingReport) -> str:
    """Return the model card as Markdown."""
    job, trained = report.job, report.trained
    base = markdown.repository(report.base["source"])
    parts = [
        markdown.front_matter(
            job,
            report.base["source"],
            relation="adapter",
            library_name="peft",
            tags=["lora", "qlora", "sft", job.training.advanced.backend],
        ),
        f"# {job.name}\n",
        f"A QLoRA adapter for `{base}`, trained on "
        f"{markdown.sources_of(job)} by the FineTuneJob "
        f"`{job.namespace}/{job.name}`, revision `{job.revision}`.\n",
        _usage(report),
        "## Results\n",
        f"![Training loss]({report.plotted})\n" if report.plotted else "",
        markdown.table(_outcome(report)),
        _curve(report.history),
        "## Estimated and measured\n",
        markdown.table(_comparison(report), header=("", "estimated", "measured")),
        "## Provenance\n",
        markdown.table(_provenance(report)),
        "## Versions\n",
        markdown.table((name, version) for name, version in sorted(trained["versions"].items())),
        "## Recipe\n",
        "Values that the job does not set are chart defaults or built-in defaults.\n",
        "```yaml\n" + markdown.yaml_text(_recipe(job)) + "```\n",
    ]
    return mask("\n".join(part for part in parts if part))


def _usage(report: TrainingReport) -> str:
    """Return code that loads the model as it was trained: on the base rounded to 4 bits."""
    base, commit = markdown.repository(report.base["source"]), report.base["baseCommit"][:12]
    quantization = report.job.training.advanced.quantization
    compute = f"torch.{quantization.compute_dtype}"
    extracted = report.trained.get(TEXT_MODEL_FACT)
    names, before, options = "AutoModelForCausalLM, AutoTokenizer", "", ""
    if extracted is not None:
        names = f"AutoConfig, {names}"
        before = f"""# The adapter belongs to the text model alone.
config = AutoConfig.from_pretrained("{base}", revision="{commit}").get_text_config(decoder=True)
config.tie_word_embeddings = {extracted["tied"]}
"""
        options = f"""
    config=config,
    key_mapping={extracted["names"]!r},"""
    # The template renders prompts as in training.
    template = (
        f'tokenizer.chat_template = open("path/to/this/folder/{report.template}").read()\n'
        if report.template
        else ""
    )
    return f"""## Use

```python
import torch
from peft import PeftModel
from transformers import {names}, BitsAndBytesConfig

{before}base = AutoModelForCausalLM.from_pretrained(
    "{base}",
    revision="{commit}",{options}
    dtype={compute},
    quantization_config=BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="{quantization.type}",
        bnb_4bit_use_double_quant={quantization.double_quant},
        bnb_4bit_compute_dtype={compute},
    ),
)
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}", revision="{commit}")
{template}```

Load the base in 4 bits, as above: the adapter was trained on these rounded weights, and it also
corrects their rounding errors. On the published 16-bit weights, it is another model that nobody has
evaluated, and its answers can differ. The merged model of the same job contains the rounded weights
in 16 bits, so it needs no quantization library, unless the job sets `merge.base: original`.
"""


def _outcome(report: TrainingReport) -> Iterable[tuple[str, str]]:
    trained, data = report.trained, report.data
    yield "steps", f"{trained['globalStep']:,}"
    yield "training loss at the last step", _number(trained["loss"])
    yield "loss on the held-out rows", _number(trained["evalLoss"])
    yield "training rows", f"{data['rows']:,}"
    own = data.get("evaluationDataset")
    yield "evaluation rows" if own else "held-out rows", f"{data['validationRows']:,}"
    yield "rows dropped (too long)", f"{data['droppedRows']:,}"
    yield "tokens per epoch", f"{data['trainTokens']:,}"
    yield "trained tokens per epoch", f"{data['trainedTokens']:,}"


def _curve(history: LossHistory) -> str:
    """Return a table of some points of the loss curve, for readers without the plot."""
    losses, held_out = history["loss"], dict(history["evalLoss"])
    if not losses:
        return ""
    every = max(1, len(losses) // 10)
    shown = dict([*losses[::every], losses[-1]])
    steps = sorted(set(shown) | set(held_out))
    by_step = dict(losses)
    rows = ((str(at), _number(by_step.get(at)), _number(held_out.get(at))) for at in steps)
    return markdown.table(rows, header=("step", "training loss", "held-out loss"))


def _comparison(report: TrainingReport) -> Iterable[tuple[str, str, str]]:
    estimate = report.data.get("estimate") or {}
    micro = report.trained["microBatch"]
    yield "micro-batch", str(estimate.get("microBatch", "–")), str(micro)
    yield "GPU memory", _gib(estimate.get("trainingBytes")), _gib(report.peak)
    yield (
        "training time",
        estimated(estimate["seconds"]) if estimate.get("seconds") is not None else "–",
        f"{duration(report.trained['gpuSeconds'])}, including startup, over all attempts",
    )
    yield "card", str(estimate.get("card") or "–"), str(report.trained["device"])


def _provenance(report: TrainingReport) -> Iterable[tuple[str, str]]:
    data, trained = report.data, report.trained
    yield "base", f"`{report.base['source']}`"
    yield "base commit", f"`{report.base['baseCommit']}`"
    yield from markdown.continued_from(data.get(START_FACT))
    read = {source["dataset"]: source for source in data.get("sources") or ()}
    for path, origin in sorted((data.get(ORIGINS_FACT) or {}).items()):
        # datasets[support] becomes "dataset support", evaluation.dataset "evaluation dataset".
        name = path.replace("datasets[", "dataset ").replace("]", "").replace(".", " ")
        yield name, f"`{origin['source']}`"
        yield from _selected(name, read.get(path))
        if origin["commit"]:
            yield f"{name} commit", f"`{origin['commit']}`"
        yield f"{name} digest", f"`{origin['digest']}`"
    yield "tokenized dataset digest", f"`{trained['datasetDigest']}`"
    yield "prompt", str(data["template"] or "none (plain text)")
    yield "attention kernel", str(trained["attention"])
    yield from markdown.images(trained["images"])


def _selected(name: str, record: Mapping[str, Any] | None) -> Iterable[tuple[str, str]]:
    """Yield the rows about the files of a dataset. record: a ``SourceRecord``, if there is one."""
    if record is None:
        return
    if "config" in record:
        yield f"{name} configuration", f"`{record['config']}`"
    yield f"{name} split", f"`{record['split']}`"


def _recipe(job: JobConfig) -> dict[str, Any]:
    """Return the resolved recipe without unset values and names of Secrets."""
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


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _gib(size: int | None) -> str:
    return "–" if size is None else f"{size / GIB:.2f} GiB"
