"""Host memory of this pod, and how much of it Unsloth may pin."""

from collections.abc import MutableMapping
from pathlib import Path

from finetune_trainer.runtime.threads import CGROUP

GIB = 2**30
LIBRARIES = 3 * GIB
"""Bytes of Python, PyTorch and the CUDA libraries in the train pod."""
PINNED_LIMIT = "UNSLOTH_GC_PINNED_MAX_GB"
"""Limit of Unsloth's pinned memory, in GiB. Without it, Unsloth uses the memory of the node."""


def limit_pinned(environment: MutableMapping[str, str], *, cgroup: Path = CGROUP) -> None:
    """Limit Unsloth's pinned memory to what the memory limit of this pod leaves, if it has one."""
    found = limit(cgroup)
    if found is not None:
        environment.setdefault(PINNED_LIMIT, f"{max(0, found - LIBRARIES) / GIB:.2f}")


def limit(cgroup: Path = CGROUP) -> int | None:
    """Return the memory limit of the cgroup in bytes (v2, then v1), or None if there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            found = (cgroup / name).read_text().strip()
        except OSError:
            continue
        # Version 1 reports the largest number of whole pages instead of "max".
        return int(found) if found.isdigit() and int(found) < 2**60 else None
    return None
