"""The FineTuneJob's status as the previous reconcile wrote it, parsed once.

The status is an input of the next reconcile: the ledger, transition times of conditions, and
measurements that cannot be read again after their pod is gone. Everything that the core reads from
it is a field here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_operator.types import Object

Values = Mapping[str, Any]
NOTHING: Values = {}


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """The parts of a status that the next reconcile depends on."""

    conditions: Mapping[str, Values]
    """By type."""

    revision: str | None
    build: str | None
    serving_build: str | None
    release_planned_at: str | None
    """When the stable build was to release its GPU, as announced."""

    warnings: tuple[str, ...]
    progress: str | None
    eta: str | None
    preparation: Values
    training: Values
    against_serving: Values | None
    """Comparison of ``build`` with the build that it replaced."""

    verification: Values
    volume_owners: tuple[str, ...]
    """Uids of the FineTuneJobs whose volumes the job uses."""

    ledger_version: int | None
    revisions: tuple[Values, ...]
    """The ledger, not parsed: it may have been written by another version."""

    def is_about(self, revision: str) -> bool:
        """Report whether progress and warnings describe a revision."""
        return self.revision == revision


def status_view(job: Object) -> StatusView:
    """Return the status that a FineTuneJob has now."""
    status = job.get("status", NOTHING)
    return StatusView(
        conditions={each["type"]: each for each in status.get("conditions", ())},
        revision=status.get("revision"),
        build=status.get("build"),
        serving_build=status.get("serving", NOTHING).get("build"),
        release_planned_at=status.get("serving", NOTHING).get("releasePlannedAt"),
        warnings=tuple(status.get("warnings", ())),
        progress=status.get("progress"),
        eta=status.get("eta"),
        preparation=status.get("preparation", NOTHING),
        training=status.get("training", NOTHING),
        against_serving=status.get("evaluation", NOTHING).get("againstServing"),
        verification=status.get("verification", NOTHING),
        volume_owners=tuple(status.get("volumeOwners", ())),
        ledger_version=status.get("ledgerVersion"),
        revisions=tuple(status.get("revisions", ())),
    )
