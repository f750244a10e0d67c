"""The time until an operator writes after a failure of the leader, and after a start.

All jobs of the cluster are Ready. A new job is created at the moment of the failure, and before the
start; the time ends with the first write of its status.
"""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.support.api_server.controlplane import ControlPlane
from tests.support.api_server.operatorprocess import OperatorProcess, operator, starting

from bench.simulated import harness

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 300.0
NAMESPACE = "team-0"


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """The results, in seconds and bytes."""

    failover: float
    """From SIGKILL to the leader until the standby, which is ready, writes."""
    start: float
    """From the start of a process until it writes; no other operator runs."""
    standby_bytes: float
    """Resident memory of the standby before it leads."""


def measure(
    plane: ControlPlane,
    folder: Path,
    config: Mapping[str, Any],
    leader: OperatorProcess,
) -> Restarts:
    """Kill the leader, then start another process. config: has the Lease.

    The leader has ended afterwards.
    """
    with operator(plane, folder, config, pod="standby") as standby:
        standby_bytes = standby.metric("process_resident_memory_bytes")
        began = monotonic()
        os.kill(leader.process.pid, signal.SIGKILL)
        _create(plane, "after-failover")
        failover = _first_write(plane, "after-failover") - began
        standby.stop()
    _create(plane, "after-start")
    began = monotonic()
    with starting(plane, folder, config, pod="started"):
        start = _first_write(plane, "after-start") - began
    return Restarts(failover=failover, start=start, standby_bytes=standby_bytes)


def _create(plane: ControlPlane, name: str) -> None:
    plane.post(harness.path(NAMESPACE), harness.job(name))


def _first_write(plane: ControlPlane, name: str) -> float:
    """Wait until the status of a job was written; return the time. Raise TimeoutError."""
    deadline = monotonic() + PATIENCE_SECONDS
    while monotonic() < deadline:
        if plane.get(harness.path(NAMESPACE, name)).get("status", {}).get("conditions"):
            return monotonic()
        sleep(POLL_SECONDS)
    raise TimeoutError(f"no operator has written the status of {name}")
