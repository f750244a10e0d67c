"""Record the reference: log-probabilities of the tuned model for sample rows.

The verify container compares the served model with it. It is recorded at the end of training, while
the pod still holds the GPU, from the published adapter; if training is killed in between, only this
is repeated. A failure never fails the training: the endpoint is then verified by digests only, and
a warning says so.
"""

import time
from dataclasses import dataclass
from typing import Any

from finetune_api.contracts import reference
from finetune_api.safety.redaction import one_line
from finetune_trainer.checkpointing import manifest
from finetune_trainer.devices import device as devices
from finetune_trainer.evaluation import scoring_process
from finetune_trainer.evaluation.loss_comparison import evaluate
from finetune_trainer.runtime.log import log
from finetune_trainer.volume.files import fresh
from finetune_trainer.volume.volume_errors import is_full_volume
from finetune_trainer.volume_layout import Layout

KIND = reference.KIND


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Result of recording a reference.

    evaluation: ``HeldOutLosses`` of the API; None without held-out rows.
    largest_activation: as in the reference; None if recording failed.
    """

    seconds: float
    evaluation: dict[str, Any] | None
    largest_activation: int | None = None
    manifest: str | None = None
    """SHA-256 (hex) of the reference's manifest; None if it could not be recorded."""
    warnings: tuple[str, ...] = ()


def ensure(layout: Layout, adapter: manifest.Manifest) -> Recorded:
    """Record the reference of the published adapter unless it is already recorded."""
    key = f"{adapter.key} {adapter.digest}"
    record = manifest.valid(layout.reference, kind=KIND, key=key)
    if record is None:
        began = time.monotonic()
        replaced = scoring_process.libraries_are_replaced()
        log(f"recording the reference{' in a process without Unsloth' * replaced}")
        try:
            devices.release_memory()
            scored = scoring_process.score(layout) if replaced else _scored_here(layout)
        except Exception as error:
            if is_full_volume(error):
                raise
            text = one_line(error)
            log(f"could not record the reference: {type(error).__name__}: {text}")
            return Recorded(
                seconds=time.monotonic() - began,
                evaluation=None,
                warnings=(
                    f"the log-probabilities for the verification could not be recorded ({text}); "
                    "the serving pods will verify only the digests of the files",
                ),
            )
        record = _publish(layout, scored, adapter, key=key, seconds=time.monotonic() - began)
    return Recorded(
        seconds=record.facts["seconds"],
        evaluation=record.facts["evaluation"],
        largest_activation=record.facts["largestActivation"],
        manifest=record.sha256,
    )


def _scored_here(layout: Layout) -> reference.Reference:
    from finetune_trainer.evaluation import scoring

    return scoring.score(layout)


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
            "largestActivation": scored.largest_activation,
            "seconds": round(seconds, 2),
            "evaluation": evaluation,
        },
    )
