"""The memory limit of a pod, and Unsloth's pinned memory below it."""

from pathlib import Path

import pytest

from finetune_trainer.runtime import pod_limits

GIB = 2**30


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("memory.max", str(14 * GIB), 14 * GIB),
        ("memory.max", "max", None),
        ("memory/memory.limit_in_bytes", str(14 * GIB), 14 * GIB),
        ("memory/memory.limit_in_bytes", "9223372036854771712", None),
        ("other", "1", None),
    ],
)
def test_limit_is_that_of_the_cgroup(
    tmp_path: Path, file: str, content: str, expected: int | None
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content + "\n")
    assert pod_limits.memory(tmp_path) == expected


@pytest.mark.parametrize(
    ("limit", "before", "expected"),
    [
        (str(14 * GIB), {}, "11.00"),
        (str(2 * GIB), {}, "0.00"),
        (str(14 * GIB), {pod_limits.PINNED_LIMIT: "5"}, "5"),
        ("max", {}, None),
    ],
)
def test_pinned_memory_is_what_the_limit_leaves(
    tmp_path: Path, limit: str, before: dict[str, str], expected: str | None
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    environment = dict(before)
    pod_limits.limit_pinned(environment, cgroup=tmp_path)
    assert environment.get(pod_limits.PINNED_LIMIT) == expected
