"""Number of math threads, and how they wait for each other.

Libraries do not see a container's CPU limit: with one thread per core of the node, all of them are
throttled together. OpenMP threads spin while they wait; on shared cores this made a step of 10 s
take 130 s.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def configure(environment: MutableMapping[str, str], *, cgroup: Path = CGROUP) -> None:
    """Set the OpenMP variables, read when it is loaded, unless the pod sets them."""
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OMP_NUM_THREADS", str(available(cgroup)))


def available(cgroup: Path = CGROUP) -> int:
    """Return the number of usable cores: CPU affinity, capped by the cgroup limit rounded up."""
    cores = len(os.sched_getaffinity(0))
    limit = _limit(cgroup)
    return max(1, min(cores, math.ceil(limit))) if limit else cores


def _limit(cgroup: Path) -> float | None:
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
