"""Record the reference: log-probabilities of the tuned model for sample rows.

The verify container compares the served model with it. It is recorded at the end of training, while
the pod still holds the GPU, from the published adapter; if training is killed in between, only this
is repeated. A failure never fails the training: the endpoint is then verified by digests only, and
a warning says so.
"""

import gc
import json
import time
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts import reference
from finetune_api.contracts.redaction import one_line
from finetune_trainer.checkpointing import manifest
from finetune_trainer.data import reference_sample
from finetune_trainer.evaluation.loss_comparison import evaluate
from finetune_trainer.runtime.files import fresh
from finetune_trainer.runtime.log import log
from finetune_trainer.runtime.volume_errors import is_full_volume
from finetune_trainer.volume_layout import Layout

KIND = reference.KIND


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Result of recording a reference.

    evaluation: ``Evaluation`` of ``finetune_api.v1alpha1.status``; None without held-out rows.
    """

    seconds: float
    evaluation: dict[str, Any] | None
    warnings: tuple[str, ...] = ()


def ensure(layout: Layout, adapter: manifest.Manifest) -> Recorded:
    """Record the reference of the published adapter unless it is already recorded."""
    key = f"{adapter.key} {adapter.digest}"
    found = manifest.valid(layout.reference, kind=KIND, key=key)
    if found is None:
        began = time.monotonic()
        try:
            held_out = manifest.read(layout.dataset).facts["validationRows"] > 0
            scored = _score(layout, adapter, held_out=held_out)
        except Exception as error:
            if is_full_volume(error):
                raise
            text = one_line(error)
            log(f"could not record the reference: {type(error).__name__}: {text}")
            return Recorded(
                seconds=time.monotonic() - began,
                evaluation=None,
                warnings=(
                    f"the reference could not be recorded ({text}); the endpoint will be verified "
                    "by digests only",
                ),
            )
        found = _publish(layout, scored, adapter, key=key, seconds=time.monotonic() - began)
    return Recorded(
        seconds=found.facts["seconds"],
        evaluation=found.facts["evaluation"],
    )


def _score(layout: Layout, adapter: manifest.Manifest, *, held_out: bool) -> reference.Reference:
    import torch

    from finetune_trainer.evaluation.scoring import KINDS, Scorer, models
    from finetune_trainer.models.layerwise_model import LayerwiseModel
    from finetune_trainer.quantization.quant_state import DequantizedBase
    from finetune_trainer.runtime import device as devices

    rows: list[dict[str, Any]] = json.loads((layout.dataset / reference_sample.FILE).read_text())
    device = devices.detect()
    # The trained model is out of scope but still in GPU memory.
    gc.collect()
    if device.cuda:
        torch.cuda.empty_cache()
    # allow_tf32 cannot be read once a library has set the newer fp32_precision.
    precision = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        layerwise = LayerwiseModel(
            layout.base,
            layout.adapter,
            DequantizedBase(adapter, layout.adapter),
            device=torch.device("cuda" if device.cuda else "cpu"),
        )
        positions = [
            [at for start, end in row["spans"] for at in range(start, end)] for row in rows
        ]
        scores = Scorer(layerwise).score(
            models(evaluated=held_out), [row["ids"] for row in rows], positions
        )
    finally:
        torch.backends.cuda.matmul.fp32_precision = precision
    return reference.Reference(
        held_out=held_out,
        rows=[
            reference.Row.model_validate(
                {
                    **row,
                    **{
                        kind: {
                            model.part: found[at]
                            for model, found in scores.items()
                            if model.kind == kind
                        }
                        for kind in KINDS
                    },
                }
            )
            for at, row in enumerate(rows)
        ],
    )


def _publish(
    layout: Layout,
    scored: reference.Reference,
    adapter: manifest.Manifest,
    *,
    key: str,
    seconds: float,
) -> manifest.Manifest:
    scratch = fresh(layout.scratch("reference"))
    (scratch / reference.FILE).write_text(scored.model_dump_json(by_alias=True))
    evaluation = None
    if scored.held_out:
        evaluation = evaluate(scored).model_dump(mode="json", exclude_none=True)
    return manifest.publish(
        scratch,
        layout.reference,
        kind=KIND,
        key=key,
        facts={
            "adapter": adapter.digest,
            "rows": len(scored.rows),
            "tokens": scored.tokens,
            "heldOut": scored.held_out,
            "seconds": round(seconds, 2),
            "evaluation": evaluation,
        },
    )
