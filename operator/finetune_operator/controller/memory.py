"""The memory of one job: everything that is remembered about it between two reconciles.

Removing the record forgets the job. The work queue keeps its own count of failures per key, as the
rate limiter of client-go does: the backoff of a job must also grow if nothing about it can be read.
"""

from dataclasses import dataclass, field

from finetune_operator.kube.errors import Terminal
from finetune_operator.snapshot.cache import SnapshotCache
from finetune_operator.telemetry.job_metrics import JobSample


@dataclass(frozen=True, slots=True)
class Applied:
    """The last server-side apply to a child: the version it produced, and what was applied."""

    version: str
    digest: str


@dataclass(slots=True, kw_only=True)
class JobMemory:
    """See the module."""

    uid: str = ""
    cache: SnapshotCache = field(default_factory=SnapshotCache)
    fingerprint: int | None = None
    """Versions of the job and its children after the last reconcile (``resync``)."""
    applied: dict[tuple[str, str], Applied] = field(default_factory=dict)
    """By kind and name of the child."""
    rejection: Terminal | None = None
    """Why the API server rejects a write of this job; its conditions report it."""
    sample: JobSample | None = None
