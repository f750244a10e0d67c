"""The number of math threads follows the container's CPU limit."""

import os
from pathlib import Path

import pytest

from finetune_trainer.runtime import pod_limits


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "99900000 100000"}, None),
        ({}, None),
    ],
)
def test_thread_count_follows_the_container_limit(
    tmp_path: Path, files: dict[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    expected = cores or len(os.sched_getaffinity(0))
    assert pod_limits.cores(tmp_path) == expected


def test_thread_settings_of_the_pod_are_kept() -> None:
    environment = {"OMP_NUM_THREADS": "3"}
    pod_limits.limit_threads(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}
