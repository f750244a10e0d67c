"""The reference of a published adapter: its sample rows, scored under six models."""

import json
from typing import Any

import torch

from finetune_api.contracts.reference import Reference, Row
from finetune_trainer.attention import choice as attention_choice
from finetune_trainer.attention.kernels import EAGER, SDPA
from finetune_trainer.checkpointing import manifest
from finetune_trainer.data import reference_sample
from finetune_trainer.devices import cpu_bfloat16
from finetune_trainer.devices import device as devices
from finetune_trainer.evaluation import long_row
from finetune_trainer.evaluation.layerwise_model import LayerwiseModel
from finetune_trainer.evaluation.scorer import KINDS, Scorer, models
from finetune_trainer.models import text_model
from finetune_trainer.quantization.quant_state import DequantizedBase
from finetune_trainer.volume_layout import Layout


def score(layout: Layout) -> Reference:
    """Return the reference of the published adapter of a volume."""
    rows: list[dict[str, Any]] = json.loads((layout.dataset / reference_sample.FILE).read_text())
    held_out = manifest.read(layout.dataset).facts["validationRows"] > 0
    device = devices.detect()
    cpu_bfloat16.avoid_emulation(device)
    # allow_tf32 cannot be read once a library has set the newer fp32_precision.
    precision = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        layerwise = LayerwiseModel(
            layout.base,
            layout.adapter,
            DequantizedBase(manifest.read(layout.adapter), layout.adapter),
            device=torch.device("cuda" if device.cuda else "cpu"),
            attention=_kernel(layout),
        )
        context = getattr(layerwise.model.config, "max_position_embeddings", None)
        long = long_row.of_rows(rows, context=context)
        requested = rows if long is None else [*rows, long]
        positions = [
            [at for start, end in row["spans"] for at in range(start, end)] for row in requested
        ]
        scorer = Scorer(layerwise)
        scores = scorer.score(
            models(evaluated=held_out), [row["ids"] for row in requested], positions
        )
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision
    scored = [
        Row.model_validate(
            {
                **row,
                **{
                    kind: {
                        model.part: by_row[at]
                        for model, by_row in scores.items()
                        if model.kind == kind
                    }
                    for kind in KINDS
                },
            }
        )
        for at, row in enumerate(requested)
    ]
    return Reference(
        held_out=held_out,
        largest_activation=scorer.activations.value,
        rows=scored[: len(rows)],
        long_row=None if long is None else scored[-1],
    )


def _kernel(layout: Layout) -> str:
    """Return SDPA, or EAGER if only that computes the base correctly."""
    config = text_model.described(layout.base)
    support = attention_choice.load(layout.dataset, config, packed=False)
    return EAGER if SDPA not in support.padded else SDPA
