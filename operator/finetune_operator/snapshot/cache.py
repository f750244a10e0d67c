"""The cached snapshot of one job, so that a reconcile reads only what changed since the last one.

Cached objects never come from a watch. A reconcile read them live, or the API server returned them
in response to a write of that reconcile. A watch event only invalidates its kind, and the next
reconcile lists that kind again. An event that is late, duplicated or out of order therefore costs
one read. After a lost event the cache is stale until the next resync, or until a pod that should
run cannot be scraped (``scraper``).

A stale cache is not safe to act on. The ``controller`` confirms a plan that does more than write a
status with a live read of ``CONFIRMED_KINDS``.

Entries are packed, and exist only for jobs with a scheduled reconcile: ``clear`` removes the entry
of a job at rest, and ``checkout`` that of a reconcile which fails. Reconciles of a training job
change only the FineTuneJob itself; its children, nine tenths of an entry, are packed again only
after one of them has changed.
"""

import dataclasses
import marshal
import zlib
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.kube.kinds import FINETUNEJOB
from finetune_operator.objects.digest import job_version, object_version
from finetune_operator.objects.naming import left_by_an_earlier_job
from finetune_operator.types import LISTS, Object, Snapshot

WATCHED_CHILDREN = ("Pod", "PersistentVolumeClaim", "Job", "Deployment")
WATCHED_KINDS = frozenset({FINETUNEJOB, *WATCHED_CHILDREN})
CONFIRMED_KINDS = WATCHED_KINDS | {"ConfigMap"}
"""Kinds that decide whether an object may be created or deleted, confirmed before every write.

The other children have one fixed name: a second create, or an apply to an old version, fails.
"""
ALL_KINDS = frozenset({FINETUNEJOB, *LISTS})


@dataclass(frozen=True, kw_only=True)
class CachedSnapshot:
    """The snapshot with which a reconcile starts."""

    snapshot: Snapshot
    children: bytes
    """The packed children of the entry."""


@dataclass(kw_only=True)
class SnapshotUpdate:
    """The snapshot of a reconcile, updated with the responses to its writes."""

    snapshot: Snapshot
    cached: CachedSnapshot | None = None
    stale: set[str] = field(default_factory=set)
    """Kinds with changes that the responses do not contain."""

    def record(self, kind: str, written: Object | None) -> None:
        """Record a write. written: the object in the response, None if it contains no object."""
        if written is None:
            self.stale.add(kind)
        elif kind == FINETUNEJOB:
            self.snapshot = dataclasses.replace(self.snapshot, job=written)
        else:
            uid = written["metadata"]["uid"]
            others = (
                each
                for each in getattr(self.snapshot, LISTS[kind])
                if each["metadata"]["uid"] != uid
            )
            changes: dict[str, Any] = {LISTS[kind]: (*others, written)}
            self.snapshot = dataclasses.replace(self.snapshot, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    job: bytes
    children: bytes
    versions: frozenset[int]
    stale: frozenset[str]
    due: float


class SnapshotCache:
    """Cache of one job: its last snapshot, and the kinds that events have invalidated since."""

    __slots__ = ("_due_at_once", "_entry", "_events", "_job_version")

    def __init__(self) -> None:
        self._entry: _Entry | None = None
        self._events: set[tuple[str, int | None]] | None = None
        """Events since the start of the last reconcile; None if nothing is to be committed."""
        self._job_version: int | None = None
        """Version of the FineTuneJob that was observed last; ``clear`` does not remove it."""
        self._due_at_once = False

    def invalidate(self, kind: str, version: int | None) -> bool:
        """Mark a kind as stale; return False if the last reconcile observed this version.

        version: of the object in the event (``digest``), None if it is unknown. The version of a
        FineTuneJob excludes its status, so our own status writes do not invalidate anything.
        """
        if version is not None and version in self._observed_versions():
            return False
        if self._events is not None:
            self._events.add((kind, version))
        return True

    def make_due(self) -> None:
        """Make a reconcile due at once: a pod has another value."""
        self._due_at_once = True

    def not_due_for(self, now: float) -> float:
        """Return the seconds until a reconcile is due; 0 if it is due or a kind is stale."""
        if self._due_at_once or self._entry is None or self._stale(self._entry):
            return 0.0
        return max(0.0, self._entry.due - now)

    def checkout(self) -> tuple[CachedSnapshot | None, Set[str]]:
        """Start a reconcile: return the cached snapshot and the kinds that must be read.

        The entry is removed until ``commit``, so a reconcile that fails leaves no entry.
        """
        entry, self._entry = self._entry, None
        self._due_at_once = False
        stale = ALL_KINDS if entry is None else self._stale(entry)
        self._events = set()
        if entry is None:
            return None, stale
        lists: dict[str, Any] = {
            name: tuple(objects) for name, objects in _unpack(entry.children).items()
        }
        snapshot = Snapshot(job=_unpack(entry.job), **lists)
        return CachedSnapshot(snapshot=snapshot, children=entry.children), stale

    def observed(self, job: Object) -> None:
        """Record the FineTuneJob that was read: events about this version are no news."""
        self._job_version = job_version(job)

    def commit(self, update: SnapshotUpdate, *, due: float) -> None:
        """Complete a successful reconcile. due: the time of the next one without any event.

        Nothing is stored after a ``clear`` during the reconcile, which requests a full read.
        """
        if self._events is None:
            return
        self.observed(update.snapshot.job)
        watched = (getattr(update.snapshot, LISTS[kind]) for kind in WATCHED_CHILDREN)
        # No event reports the deletion of these objects.
        unwatched = {
            kind
            for kind in LISTS.keys() - WATCHED_KINDS
            if any(
                _will_be_deleted(update.snapshot.job, each)
                for each in getattr(update.snapshot, LISTS[kind])
            )
        }
        self._entry = _Entry(
            job=_pack(_without_managed_fields(update.snapshot.job)),
            children=_pack_children(update),
            versions=frozenset(object_version(each) for children in watched for each in children),
            stale=frozenset(update.stale | unwatched),
            due=due,
        )

    def clear(self) -> None:
        """Remove the entry: the next reconcile reads all kinds."""
        self._entry = self._events = None

    def _observed_versions(self) -> Set[int | None]:
        return {self._job_version, *(self._entry.versions if self._entry is not None else ())}

    def _stale(self, entry: _Entry) -> Set[str]:
        observed = entry.versions | {self._job_version}
        return entry.stale | {
            kind
            for kind, version in self._events or ()
            if version is None or version not in observed
        }


def _will_be_deleted(job: Object, child: Object) -> bool:
    return "deletionTimestamp" in child["metadata"] or left_by_an_earlier_job(job, child)


def _pack_children(update: SnapshotUpdate) -> bytes:
    cached = update.cached
    lists = {name: getattr(update.snapshot, name) for name in LISTS.values()}
    if cached is not None and all(getattr(cached.snapshot, name) is lists[name] for name in lists):
        return cached.children
    return _pack({name: [*map(_without_managed_fields, lists[name])] for name in lists})


def _pack(value: dict[str, Any]) -> bytes:
    # JSON takes eight times as long to write and twice as long to read.
    return zlib.compress(marshal.dumps(value), level=5)


def _unpack(packed: bytes) -> dict[str, Any]:
    # Bytes that this process has packed itself.
    value: dict[str, Any] = marshal.loads(zlib.decompress(packed))  # noqa: S302
    return value


def _without_managed_fields(each: Object) -> dict[str, Any]:
    """Return an object without its managedFields, which are half of it and never used."""
    metadata = {key: value for key, value in each["metadata"].items() if key != "managedFields"}
    return {**each, "metadata": metadata}
