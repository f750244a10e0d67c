"""Facts about a FineTuneJob, read from the object. Pure, except for ``now``.

The status is read field by field: the operator may be older or newer than this program.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from finetune_api import KIND
from finetune_api.v1alpha1.reasons import Reason
from finetune_cli.errors import CommandFailed

STAGES = ("prepare", "train", "merge", "serve", "publish")
ENDED = ("Completed", "Failed", "Stopped")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition, or what is known if there is none yet."""

    status: str = "Unknown"
    reason: str = Reason.PENDING
    message: str = "The operator has not reconciled the job yet."
    since: datetime | None = None

    @property
    def true(self) -> bool:
        """Whether the condition is True."""
        return self.status == "True"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A FineTuneJob."""

    object: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.object["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.object["metadata"]["namespace"])

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its spec, as the user wrote it."""
        return self.object.get("spec") or {}

    @property
    def status(self) -> Mapping[str, Any]:
        """Its status, empty before the first reconcile."""
        return self.object.get("status") or {}

    @property
    def current(self) -> bool:
        """Whether the operator has reconciled the present spec."""
        generation = self.object["metadata"].get("generation")
        return bool(self.status.get("observedGeneration") == generation)

    def condition(self, type_: str) -> Condition:
        """Return a condition of the job."""
        for condition in self.status.get("conditions") or ():
            if condition.get("type") == type_:
                return Condition(
                    status=str(condition.get("status")),
                    reason=str(condition.get("reason")),
                    message=str(condition.get("message", "")),
                    since=time_of(condition.get("lastTransitionTime")),
                )
        return Condition()

    @property
    def ready(self) -> Condition:
        """The condition that summarizes the job."""
        return self.condition("Ready")

    @property
    def finished(self) -> bool:
        """Whether the job needs no more time, for the present spec."""
        return self.current and self.condition("Finished").true

    @property
    def revision(self) -> Mapping[str, Any]:
        """The ledger's record of the revision of the spec, empty if there is none yet."""
        wanted = self.status.get("revision")
        return next((record for record in self.revisions if record.get("revision") == wanted), {})

    @property
    def revisions(self) -> list[Mapping[str, Any]]:
        """The records of the ledger, from old to new."""
        return list(self.status.get("revisions") or ())

    def record(self, revision: str) -> Mapping[str, Any]:
        """Return the ledger's record of a revision. Raises CommandFailed if there is none."""
        names = [str(record.get("revision")) for record in self.revisions]
        for record in self.revisions:
            if record.get("revision") == revision:
                return record
        hint = f"name one of {', '.join(names)}" if names else "it has none yet"
        raise CommandFailed(f"{KIND} {self.name} has no revision {revision}: {hint}")

    @property
    def attempts(self) -> list[Mapping[str, Any]]:
        """The stages of the revision and of the build of the spec, in order of execution."""
        build = self.status.get("build")
        return sorted(
            (
                attempt
                for attempt in self.revision.get("stages") or ()
                if attempt.get("build") in (None, build)
            ),
            key=lambda attempt: STAGES.index(attempt["stage"]) if attempt["stage"] in STAGES else 9,
        )

    @property
    def stage(self) -> str | None:
        """The stage that matters: the one that has failed or runs, otherwise the last one."""
        attempts = self.attempts
        for outcomes in (("Failed",), ("Starting", "Running"), ("Stopped",)):
            for attempt in attempts:
                if attempt.get("outcome") in outcomes:
                    return str(attempt["stage"])
        return str(attempts[-1]["stage"]) if attempts else None


def time_of(text: str | None) -> datetime | None:
    """Return a time of an object, None if there is none."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None


def seconds_since(begin: datetime | None, end: datetime | None = None) -> float | None:
    """Return the seconds between two times, by default until now; None if one is unknown."""
    if begin is None:
        return None
    return max(((end or now()) - begin).total_seconds(), 0.0)


def timestamp() -> str:
    """Return the present time as Kubernetes writes it."""
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)
