"""The threads of the mathematics follow the container's limit, not the node's cores."""

import os
from pathlib import Path

import pytest

from finetune_trainer.runtime import threads


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
def test_the_limit_of_the_container(
    tmp_path: Path, files: dict[str, str], cores: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    expected = cores or len(os.sched_getaffinity(0))
    assert threads.available(tmp_path) == expected


def test_what_the_pod_says_stands() -> None:
    environment = {"OMP_NUM_THREADS": "3"}
    threads.configure(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}
