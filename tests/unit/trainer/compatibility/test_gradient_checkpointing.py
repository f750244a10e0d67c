"""Gradient checkpointing that the recipe leaves open follows the estimate."""

from typing import Any

import pytest

from finetune_api.contracts.job_config import JobConfig
from finetune_trainer.compatibility.gradient_checkpointing import follow, is_off_by_estimate

OFF = {"gradientCheckpointing": False}


def job(written: bool | None) -> JobConfig:
    document: dict[str, Any] = {
        "namespace": "ns",
        "name": "demo",
        "revision": "a1b2c3d4",
        "digest": "a" * 64,
        "model": {"source": "hf://org/model"},
        "dataset": {"source": "hf://org/rows"},
        "training": {"advanced": {"gradientCheckpointing": written}},
    }
    return JobConfig.model_validate(document)


@pytest.mark.parametrize(
    ("written", "estimate", "on", "by_estimate"),
    [
        (None, OFF, False, True),
        (None, {"gradientCheckpointing": True}, True, False),
        (None, {}, True, False),
        (None, None, True, False),
        (True, OFF, True, False),
        (False, {"gradientCheckpointing": True}, False, False),
    ],
)
def test_every_attempt_has_the_recorded_decision(
    written: bool | None, estimate: dict[str, Any] | None, on: bool, by_estimate: bool
) -> None:
    """A dataset that an earlier image prepared has no decision, and trains with it on."""
    found = job(written)
    assert follow(found, estimate).training.advanced.gradient_checkpointing is on
    assert is_off_by_estimate(found, estimate) is by_estimate
