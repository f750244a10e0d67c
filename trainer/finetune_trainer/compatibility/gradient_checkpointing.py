"""Gradient checkpointing: what the recipe says, or else the estimate of the prepare stage.

It is on unless one of them turns it off: a job without an estimate, or one that an earlier image
prepared, trains with it.
"""

from collections.abc import Mapping
from typing import Any

from finetune_api.contracts.job_config import JobConfig

FACT = "gradientCheckpointing"
"""Name of the decision in the facts of the estimate."""


def is_off_by_estimate(job: JobConfig, estimate: Mapping[str, Any] | None) -> bool:
    """Report whether the estimate alone turns it off. estimate: its facts, if there is one."""
    written = job.training.advanced.gradient_checkpointing
    return written is None and estimate is not None and estimate.get(FACT) is False


def follow(job: JobConfig, estimate: Mapping[str, Any] | None) -> JobConfig:
    """Return the job with the decision in place of an unset field."""
    advanced = job.training.advanced
    if advanced.gradient_checkpointing is not None:
        return job
    on = not is_off_by_estimate(job, estimate)
    changed = advanced.model_copy(update={"gradient_checkpointing": on})
    recipe = job.training.model_copy(update={"advanced": changed})
    return job.model_copy(update={"training": recipe})
