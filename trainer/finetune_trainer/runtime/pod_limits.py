"""CPU and memory that the limits of this pod allow, and the libraries' settings that follow.

Libraries do not see a container's CPU limit: with one thread per core of the node, all of them are
throttled together. OpenMP threads spin while they wait; on shared cores this made a step of 10 s
take 130 s. Unsloth pins host memory up to a share of the node's.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
GIB = 2**30
LIBRARIES = 3 * GIB
"""Bytes of Python, PyTorch and the CUDA libraries in the train pod."""
PINNED_LIMIT = "UNSLOTH_GC_PINNED_MAX_GB"
"""Limit of Unsloth's pinned memory, in GiB. Without it, Unsloth uses the memory of the node."""


def limit_threads(environment: MutableMapping[str, str]) -> None:
    """Set the OpenMP variables, read when it is loaded, unless the pod sets them."""
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OMP_NUM_THREADS", str(cores()))


def cores(cgroup: Path = CGROUP) -> int:
    """Return the number of usable cores: CPU affinity, capped by the cgroup limit rounded up."""
    present = len(os.sched_getaffinity(0))
    limit = _cpu_limit(cgroup)
    return max(1, min(present, math.ceil(limit))) if limit else present


def _cpu_limit(cgroup: Path) -> float | None:
    """Return the cgroup CPU limit in cores (v2, then v1), or None if there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def limit_pinned(environment: MutableMapping[str, str], *, cgroup: Path = CGROUP) -> None:
    """Limit Unsloth's pinned memory to what the memory limit of this pod leaves, if it has one."""
    limit = memory(cgroup)
    if limit is not None:
        environment.setdefault(PINNED_LIMIT, f"{max(0, limit - LIBRARIES) / GIB:.2f}")


def memory(cgroup: Path = CGROUP) -> int | None:
    """Return the memory limit of the cgroup in bytes (v2, then v1), or None if there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        # Version 1 reports the largest number of whole pages instead of "max".
        return int(text) if text.isdigit() and int(text) < 2**60 else None
    return None
