"""A job that is deleted while a stage is under way takes everything along within a minute."""

import pytest
from tests.e2e import locks
from tests.e2e.tuning import Tuning, small

# Deletion while training is in test_training.py, and of a job that serves in
# test_operator_killed.py: each of them needs what those tests have at hand.
LOCKS = {locks.GPUS: "shared"}
STAGES = ("prepare", "merge", "serve")


@pytest.mark.parametrize("stage", STAGES)
def test_everything_is_gone_within_a_minute(tuning: Tuning, stage: str) -> None:
    tuning.apply(small())
    tuning.wait_for_pod(stage, seconds=360)
    ready = tuning.condition("Ready")
    assert ready is not None
    assert ready["status"] == "False", "it was Ready already"
    kinds = {child.partition("/")[0] for child in tuning.children()}
    assert {"Pod", "ConfigMap", "PersistentVolumeClaim", "PersistentVolume"} <= kinds
    assert ("Deployment" in kinds) == (stage == "serve")
    tuning.delete(seconds=60)
