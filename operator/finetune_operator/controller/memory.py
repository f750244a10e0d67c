"""Everything that is remembered about one object between two of its reconciles.

Removing the record forgets the object. The work queue keeps its own count of failures per key, as
the rate limiter of client-go does: the backoff must also grow if nothing can be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune_operator.kube.errors import ContentConflict, Terminal
from finetune_operator.types import Object


@dataclass(frozen=True, slots=True)
class Applied:
    """The last server-side apply to a child: the version it produced, and what was applied."""

    version: str
    digest: str


@dataclass(slots=True, kw_only=True)
class Memory:
    """The record of one object. A new record is empty: the first reconcile trusts the store."""

    uid: str = ""
    news: frozenset[tuple[str, int]] = frozenset()
    """Kind and version of the objects that have changed since the last reconcile started, and a
    marker if the metrics of a pod have changed."""
    live: frozenset[str] = frozenset()
    """Kinds that the next reconcile reads from the API server."""
    unknown: frozenset[tuple[str, str]] = frozenset()
    """Kind and name of objects that a write has changed in a way that its response does not say."""
    due: float = 0.0
    """Monotonic time of the next reconcile without any change."""
    applied: dict[tuple[str, str], Applied] = field(default_factory=dict)
    """By kind and name of the child."""
    rejection: Terminal | None = None
    """Why the API server rejects a write; the conditions report it."""
    created: Mapping[str, bool] = field(default_factory=dict)
    """The newest Job, see ``Snapshot.created``."""

    def has_created(self, target: Object, written: Object) -> bool:
        """Record the uid of a Job that a create request returned, or found; report whether it did.

        target: the object of the request. Only an object that is created has no uid yet.
        """
        if target["kind"] != "Job" or "uid" in target["metadata"]:
            return False
        self.created = {written["metadata"]["uid"]: True}
        return True

    def has_found(self, conflict: ContentConflict) -> bool:
        """Record the uid of a Job that has another content; report whether that is new."""
        uid = conflict.existing["metadata"]["uid"]
        if conflict.existing["kind"] != "Job" or uid in self.created:
            return False
        self.created = {uid: False}
        return True

    def not_due_for(self, now: float) -> float:
        """Return the seconds until a reconcile is due; 0 if it is due or something has changed."""
        changed = self.news or self.live or self.unknown
        return 0.0 if changed else max(0.0, self.due - now)
