"""Deleting a job during a stage deletes all its children within a minute."""

import pytest
from tests.support.local_cluster import locks
from tests.support.local_cluster.tuning import Tuning, small

# test_training.py deletes a job during training, and test_quickstart.py deletes a serving job,
# because these tests already have such jobs.
pytestmark = pytest.mark.exhaustive
LOCKS = {locks.GPUS: "shared"}
STAGES = ("prepare", "merge", "serve")


@pytest.mark.parametrize("stage", STAGES)
def test_all_children_are_deleted_within_a_minute(tuning: Tuning, stage: str) -> None:
    tuning.apply(small())
    tuning.wait_for_pod(stage, seconds=900)
    ready = tuning.condition("Ready")
    assert ready is not None
    assert ready["status"] == "False", "it was Ready already"
    kinds = {child.partition("/")[0] for child in tuning.children()}
    assert {"Pod", "ConfigMap", "PersistentVolumeClaim", "PersistentVolume"} <= kinds
    assert ("Deployment" in kinds) == (stage == "serve")
    tuning.delete(seconds=60)
