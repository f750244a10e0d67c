"""How many threads the mathematics may use, and how they wait for each other.

A container's CPU limit is a share of time that the libraries do not see: with as many threads as
the node has cores they are throttled together. And OpenMP's threads spin while they wait; on cores
that others use too, a step of 10 s took 130 s that way.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def configure(environment: MutableMapping[str, str], *, cgroup: Path = CGROUP) -> None:
    """Set what OpenMP reads when it is loaded, unless the pod says otherwise."""
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OMP_NUM_THREADS", str(available(cgroup)))


def available(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: its affinity, and its container's limit rounded up."""
    cores = len(os.sched_getaffinity(0))
    limit = _limit(cgroup)
    return max(1, min(cores, math.ceil(limit))) if limit else cores


def _limit(cgroup: Path) -> float | None:
    """Return the limit in cores (cgroup v2, then v1), or None where there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
