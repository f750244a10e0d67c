"""Refuses a job that cannot fit its GPU or volume, before the weights are downloaded.

The estimate is stored in the manifest of the dataset. The training takes the micro-batch from
there, and the model card compares it with the measured figures.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.attention.kernels import Support
from finetune_trainer.data.dataset import Prepared
from finetune_trainer.errors import VolumeFull
from finetune_trainer.estimate import report, shape, verdict
from finetune_trainer.estimate.budget import Data, EstimateOptions, estimate
from finetune_trainer.runtime.log import log
from finetune_trainer.volume import disk


@dataclass(frozen=True, kw_only=True)
class CheckedEstimate:
    """An estimate: facts for the manifest (None if there is none), a sentence and warnings."""

    facts: dict[str, Any] | None
    sentence: str
    warnings: tuple[str, ...] = ()


def check(
    job: JobConfig,
    config: dict[str, Any],
    rows: Prepared,
    options: EstimateOptions,
    *,
    attention: Support,
    backends: Collection[str],
    base_bytes: int,
    base_remaining: int,
    work: Path,
) -> CheckedEstimate:
    """Return the estimate of a job.

    attention: the kernels that compute the base. backends: those that can train the job.
    base_bytes: size of the base, of which base_remaining bytes are not downloaded yet. Raise
    DoesNotFit if the GPU is too small, VolumeFull if the volume is too small for the whole job.
    """
    model_shape = shape.read(config)
    if model_shape is None:
        log(f"no estimate is available for model family {config.get('model_type')}")
        return CheckedEstimate(facts=None, sentence="")
    model_shape = replace(model_shape, attention=attention)
    counts, plan = rows.counts, rows.plan
    data = Data(
        longest=rows.longest,
        packed=plan.packed,
        sequences=plan.sequences,
        tokens=counts.train_tokens,
        held_out_tokens=int(rows.held_out.input_ids.size),
        steps=plan.steps,
    )
    estimated = estimate(
        model_shape,
        job.training,
        data=data,
        options=options,
        base_bytes=base_bytes,
    )
    for line in report.table(estimated, title=job.model.source).splitlines():
        log(line)
    refused = verdict.refusal(estimated, model_shape, job.training, data, options.serving, backends)
    refused = refused or verdict.host_refusal(estimated, options.train_memory)
    if refused is not None:
        raise refused
    too_small = verdict.volume_refusal(estimated, options.volume)
    if too_small is not None:
        raise too_small
    free, needed = disk.free_bytes(work), estimated.volume - base_bytes + base_remaining
    if free < needed:
        raise VolumeFull(
            f"base, checkpoints and merged model need about {disk.human(estimated.volume)}. Of "
            f"this, {disk.human(needed)} must still be written, but the volume has only "
            f"{disk.human(free)} free: raise spec.storage.size by at least "
            f"{disk.human(needed - free)}"
        )
    return CheckedEstimate(
        facts=report.facts(estimated),
        sentence=report.sentence(estimated),
        warnings=tuple(verdict.warnings(estimated)),
    )
