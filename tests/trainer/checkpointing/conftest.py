"""The recipes of the trainings that are interrupted, and the result of an uninterrupted one."""

from typing import Any

import pytest
from tests.support.trainer import tiny
from tests.support.trainer.workshop import Workshop
from tests.trainer.conftest import MakeWorkshop

STEPS = 18
# Dropout and NEFTune use random numbers, an epoch of 7 steps ends within the run, every third step
# is followed by an evaluation, the optimizer states have 8 bits, and LoRA+ adds optimizer groups.
RECIPE: dict[str, Any] = {
    "dataset": {"validationFraction": 0.2},
    "training": {
        "maxSteps": STEPS,
        "effectiveBatchSize": 3,
        "lora": {"dropout": 0.1, "r": 64},
        "advanced": {
            "microBatchSize": 1,
            "saveSteps": 2,
            "evalSteps": 3,
            "neftuneNoiseAlpha": 5,
            "loraplusLrRatio": 2,
        },
    },
}
PACKED: dict[str, Any] = tiny.merged(
    RECIPE,
    {
        "training": {
            "packing": "always",
            "lora": {"modulesToSave": ["embed_tokens", "lm_head"]},
            "advanced": {"gradientCheckpointing": True},
        }
    },
)


@pytest.fixture(scope="session")
def uninterrupted_packed(make: MakeWorkshop) -> Workshop:
    """A job whose training ended; tests must not change it."""
    workshop = make(**PACKED)
    workshop.prepare_and_train()
    return workshop
