"""A published model goes through all stages: quantize, train, merge, load again, compare.

The stages are those of the trainer, with LoRA on all linear layers. Plain transformers loads the
merged model. Its logits are compared with those of the published model, loaded by transformers,
whose quantized weights bitsandbytes has rounded, with the adapter, which PEFT adds.
"""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families import published
from families.published import PublishedModel
from finetune_trainer.errors import TrainerError
from finetune_trainer.volume_layout import Layout

BOUND = 0.005
"""Largest difference of the logits that counts as the rounding of the merged weights to 16 bits."""
EFFECT = 20 * BOUND
"""Least effect of the adapter on the logits; otherwise a wrong merge could remain unnoticed."""
CLAIM, BUILD = "shared", "b"


class Broken(Exception):
    """The model cannot be trained, merged or loaded; the text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Circle:
    """What became of a model.

    rejected: the message with which ``prepare`` rejects it; the other fields are then empty.
    broken: why a later stage or the comparison fails. verified: whether the reference for the
    verification was recorded. difference, effect: as in ``compare``. quantized: share of the
    weights in the layers that are quantized, and can have an adapter.
    """

    rejected: str = ""
    broken: str = ""
    verified: bool = False
    difference: float = 0.0
    effect: float = 0.0
    quantized: float = 0.0


def run(model: PublishedModel) -> Circle:
    """Run the circle of a model in this process, whose environment it changes."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(model, Path(folder))


def _run(model: PublishedModel, folder: Path) -> Circle:
    published.write(model, folder / CLAIM / "base")
    (folder / CLAIM / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in published.rows()), encoding="utf-8"
    )
    os.environ["FINETUNE_SOURCES_DIR"] = str(folder)
    layout = Layout(work=folder / "work")
    stages = _Stages(layout)
    try:
        stages.prepare()
    except TrainerError as error:
        return Circle(rejected=str(error))
    try:
        verified = stages.train()
        stages.merge()
        difference, effect = compare(layout)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        return Circle(broken=f"{type(error).__name__}: {text}"[:300])
    broken = ""
    # Not "difference > BOUND", which is false for NaN.
    if not difference <= BOUND:
        broken = f"the merged model differs from the trained one ({difference:.3f})"
    elif not effect >= EFFECT:
        broken = f"the adapter has too small an effect ({effect:.3f})"
    return Circle(
        broken=broken,
        verified=verified,
        difference=difference,
        effect=effect,
        quantized=quantized(layout),
    )


class _Stages:
    """The stages of one job, as ``ftj run`` runs them."""

    def __init__(self, layout: Layout) -> None:
        from finetune_cli.offline import job_file
        from finetune_trainer.runtime import environment

        environment.configure()
        self.layout = layout
        self.job = job_file.of([JOB], at="the job").job()
        layout.work.mkdir()
        self.paths = {"config": str(layout.work / "job.json"), "work": str(layout.work)}

    def prepare(self) -> None:
        from finetune_api.contracts.stage_request import PrepareStageRequest
        from finetune_trainer.preparation import prepare
        from finetune_trainer.runtime.progress import Progress

        prepare.run(self.job, self.layout, Progress("prepare"), PrepareStageRequest(**self.paths))

    def train(self) -> bool:
        """Train; return whether the reference was recorded."""
        from finetune_api.contracts.stage_request import TrainStageRequest
        from finetune_trainer.runtime.progress import Progress
        from finetune_trainer.runtime.signals import StopRequest
        from finetune_trainer.training import train

        requested = TrainStageRequest(**self.paths)
        progress = Progress("train")
        result = train.run(self.job, self.layout, progress, StopRequest(), requested)
        return getattr(result.artifacts, "reference_manifest", None) is not None

    def merge(self) -> None:
        from finetune_api.contracts.stage_request import MergeStageRequest
        from finetune_trainer.merging import merge
        from finetune_trainer.runtime.progress import Progress

        requested = MergeStageRequest(
            **self.paths, build=BUILD, dtype="float16", base="dequantized"
        )
        merge.run(self.job, self.layout, Progress("merge"), requested)


JOB: dict[str, Any] = {
    "kind": "FineTuneJob",
    "metadata": {"name": "circle"},
    "spec": {
        "model": {"source": f"pvc://{CLAIM}/base"},
        "dataset": {"source": f"pvc://{CLAIM}/rows.jsonl", "format": "text"},
        "training": {
            "maxSteps": 3,
            "learningRate": 2e-2,
            "effectiveBatchSize": 4,
            "sequenceLength": 32,
            "packing": "auto",
            "lora": {"targetModules": ["all-linear"]},
            "advanced": {"backend": "trl", "warmupRatio": 0.0},
        },
    },
}


def compare(layout: Layout) -> tuple[float, float]:
    """Return the difference of the merged model's logits, and the effect of the adapter on them.

    Raises Broken if the merged files are not those of a whole model.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    merged, report = AutoModelForCausalLM.from_pretrained(
        layout.merged(BUILD), dtype=torch.float32, output_loading_info=True
    )
    if wrong := {name: sorted(map(str, keys))[:3] for name, keys in report.items() if keys}:
        raise Broken(f"transformers does not load the merged model as a whole: {wrong}")
    base = text_model(layout.base)
    round_weights(base, layout)
    ids = rows_of(layout)
    untuned = logits(base, ids)
    tuned = logits(peft.PeftModel.from_pretrained(base, layout.adapter), ids)
    return relative(logits(merged, ids), tuned), relative(untuned, tuned)


def relative(actual: Any, expected: Any) -> float:
    """Return the median over all tokens of the relative difference of their logits.

    The median, because the rounding can change the experts that compute one token.
    """
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


def text_model(base: Path) -> Any:
    """Return the text model of a published one in float32, without code of the trainer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

    config = AutoConfig.from_pretrained(base)
    if "text_config" not in type(config).sub_configs:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    whole = AutoModelForMultimodalLM.from_pretrained(base, dtype=torch.float32)
    text = AutoModelForCausalLM.from_config(
        config.get_text_config(decoder=True), dtype=torch.float32
    )
    text.get_decoder().load_state_dict(whole.get_decoder().state_dict())
    text.get_output_embeddings().load_state_dict(whole.get_output_embeddings().state_dict())
    return text


def round_weights(model: Any, layout: Layout) -> None:
    """Quantize and dequantize the weights that the training quantized, with bitsandbytes."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    from finetune_trainer.checkpointing import manifest

    facts = manifest.read(layout.adapter).facts
    chosen = facts["quantization"]
    for name in facts["quantizedModules"]:
        weight = model.get_submodule(name).weight
        codes, state = quantize_4bit(
            weight.data.to(getattr(torch, chosen["computeDtype"])),
            quant_type=chosen["type"],
            compress_statistics=chosen["doubleQuant"],
        )
        weight.data = dequantize_4bit(codes, state).float()


def quantized(layout: Layout) -> float:
    """Return the share of the text model's matrices in its layers that are quantized."""
    from finetune_trainer.checkpointing import manifest
    from finetune_trainer.models import text_model as ours

    done = manifest.read(layout.adapter).facts["quantizedModules"]
    sizes = {
        name.removesuffix(".weight"): parameter.numel()
        for name, parameter in ours.build(layout.base).named_parameters()
        if parameter.dim() > 1 and any(part.isdigit() for part in name.split("."))
    }
    quantized = sum(size for name, size in sizes.items() if name in done)
    return float(quantized / max(1, sum(sizes.values())))


def rows_of(layout: Layout) -> Any:
    """Return the first training rows as a batch."""
    import torch

    from finetune_trainer.data.token_store import TRAIN, Tokens

    tokens = Tokens.load(layout.dataset / TRAIN)
    rows = [tokens.input_ids[a:b] for a, b in zip(tokens.rows[:4], tokens.rows[1:5], strict=True)]
    return torch.stack([torch.tensor(row, dtype=torch.long) for row in rows])


def logits(model: Any, ids: Any) -> Any:
    """Return the logits of rows, in float64."""
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits.double()
