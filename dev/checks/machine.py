"""The CPU time of the machine, which includes what no test process waits for: pods and daemons."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

from cluster.host import cgroups

STAT = Path("/proc/stat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """A point in time, and the seconds of all cores and of the cluster's pods until then."""

    time: float
    busy: float
    idle: float
    pods: float

    def since(self, earlier: Usage) -> Usage:
        """Return the time that has passed, and the seconds in it.

        The cgroup of the pods counts from zero if the cluster was created again.
        """
        pods = self.pods - earlier.pods
        return Usage(
            time=self.time - earlier.time,
            busy=self.busy - earlier.busy,
            idle=self.idle - earlier.idle,
            pods=self.pods if pods < 0 else pods,
        )


def usage(stat: Path = STAT) -> Usage:
    """Return the usage since the machine has started."""
    ticks = [int(word) for word in stat.read_text().partition("\n")[0].split()[1:]]
    user, nice, system, idle, waiting, interrupts, soft_interrupts = (
        number / os.sysconf("SC_CLK_TCK") for number in ticks[:7]
    )
    return Usage(
        time=time.monotonic(),
        busy=user + nice + system + interrupts + soft_interrupts,
        idle=idle + waiting,
        pods=cgroups.cpu_seconds(),
    )
