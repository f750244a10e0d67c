"""What the last look at a job saw, so that the next one need not read all of it again.

Nothing in a view comes from a watch. All of it was read live by a look, or is what the API server
answered to a write of that look; an event only says which list is out of date, and the next look
reads that one anew. So an event that comes late, twice or in the wrong order costs a read, and one
that is lost leaves a view as old as the job's last look, until the resync or a pod that does not
answer gives it away.

A view may be too old to act on. What depends on that is with the ``controller``: a look that wants
to do more than write a status reads ``DECISIVE`` first.

Views are kept packed, and only of jobs that are looked at again without an event: one at rest is
forgotten, and so is one whose look did not end well. A look at a job that trains changes the job
alone; what it owns, nine tenths of a view, is packed again only where something of it has changed.
"""

import dataclasses
import marshal
import zlib
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.objects.naming import left_by_an_earlier_job
from finetune_operator.types import LISTS, Key, Object, Snapshot

FINETUNEJOB = "FineTuneJob"
EVERYTHING = frozenset({FINETUNEJOB, *LISTS})
DECISIVE = frozenset({FINETUNEJOB, "PersistentVolumeClaim", "Job", "Pod", "Deployment"})
"""What is watched, and what decides whether something may be started or deleted.

What else a job owns has one fixed name: to create it twice, or to apply an old version, fails.
"""


@dataclass(frozen=True, kw_only=True)
class CachedSnapshot:
    """What a look begins with."""

    snapshot: Snapshot
    children: bytes
    """All of it but the job, as it was kept."""


@dataclass(kw_only=True)
class SnapshotUpdate:
    """What a look sees, kept up with what it writes."""

    snapshot: Snapshot
    known: CachedSnapshot | None = None
    outdated: set[str] = field(default_factory=set)
    """Kinds of which more has changed than the answers tell."""

    def wrote(self, kind: str, answer: Object | None) -> None:
        """Take note of a write: what the API server answered, None where that is no object."""
        if answer is None:
            self.outdated.add(kind)
        elif kind == FINETUNEJOB:
            self.snapshot = dataclasses.replace(self.snapshot, job=answer)
        else:
            uid = answer["metadata"]["uid"]
            others = (
                each
                for each in getattr(self.snapshot, LISTS[kind])
                if each["metadata"]["uid"] != uid
            )
            changes: dict[str, Any] = {LISTS[kind]: (*others, answer)}
            self.snapshot = dataclasses.replace(self.snapshot, **changes)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    job: bytes
    children: bytes
    versions: frozenset[int]
    outdated: frozenset[str]
    due: float


class SnapshotCache:
    """The views of all jobs that are looked at again by themselves."""

    def __init__(self) -> None:
        self._kept: dict[Key, _Kept] = {}
        self._told: dict[Key, set[tuple[str, int | None]]] = {}
        """What events said since a job's last look began."""

    def told(self, key: Key, kind: str, version: int | None) -> bool:
        """Take note of an event; return whether it says anything that the last look did not see.

        version: of the object that there is now (``version_of``), None where that is not known.
        """
        kept = self._kept.get(key)
        if kept is not None and version in kept.versions:
            return False
        if key in self._told:
            self._told[key].add((kind, version))
        return True

    def left(self, key: Key, now: float) -> float:
        """Return for how many seconds there is nothing to look at, 0 where there may be."""
        kept = self._kept.get(key)
        return 0.0 if kept is None or self._outdated(key, kept) else max(0.0, kept.due - now)

    def begin(self, key: Key) -> tuple[CachedSnapshot | None, Set[str]]:
        """Begin a look: return what is known, and the kinds that have to be read.

        It is known no longer, then, until ``keep``.
        """
        kept = self._kept.pop(key, None)
        outdated = EVERYTHING if kept is None else self._outdated(key, kept)
        self._told[key] = set()
        if kept is None:
            return None, outdated
        children = _unpacked(kept.children).items()
        lists: dict[str, Any] = {name: tuple(found) for name, found in children}
        snapshot = Snapshot(job=_unpacked(kept.job), **lists)
        return CachedSnapshot(snapshot=snapshot, children=kept.children), outdated

    def keep(self, key: Key, view: SnapshotUpdate, *, due: float) -> None:
        """End a look that went well. due: when the next one is to follow, whatever happens.

        Nothing is kept if the job was forgotten meanwhile: that was to say that it be read anew.
        """
        if key not in self._told:
            return
        watched = (getattr(view.snapshot, LISTS[kind]) for kind in DECISIVE & LISTS.keys())
        # No event tells when the last of these has gone.
        unwatched = {
            kind
            for kind in LISTS.keys() - DECISIVE
            if any(_goes(view.snapshot.job, each) for each in getattr(view.snapshot, LISTS[kind]))
        }
        self._kept[key] = _Kept(
            job=_packed(_without_managers(view.snapshot.job)),
            children=_children(view),
            versions=frozenset(version_of(each) for children in watched for each in children),
            outdated=frozenset(view.outdated | unwatched),
            due=due,
        )

    def forget(self, key: Key) -> None:
        """Let the next look read everything."""
        self._kept.pop(key, None)
        self._told.pop(key, None)

    def clear(self) -> None:
        """Forget every job."""
        self._kept.clear()
        self._told.clear()

    def _outdated(self, key: Key, kept: _Kept) -> Set[str]:
        told = self._told.get(key, ())
        return kept.outdated | {kind for kind, version in told if version not in kept.versions}


def version_of(each: Object) -> int:
    """Return a number that stands for an object in its present version."""
    return hash((each["metadata"]["uid"], each["metadata"]["resourceVersion"]))


def _goes(job: Object, child: Object) -> bool:
    return "deletionTimestamp" in child["metadata"] or left_by_an_earlier_job(job, child)


def _children(view: SnapshotUpdate) -> bytes:
    known = view.known
    lists = {name: getattr(view.snapshot, name) for name in LISTS.values()}
    if known is not None and all(getattr(known.snapshot, name) is lists[name] for name in lists):
        return known.children
    return _packed({name: [*map(_without_managers, lists[name])] for name in lists})


def _packed(what: dict[str, Any]) -> bytes:
    # Not JSON: it takes eight times as long to write and twice as long to read.
    return zlib.compress(marshal.dumps(what), level=5)


def _unpacked(packed: bytes) -> dict[str, Any]:
    found: dict[str, Any] = marshal.loads(zlib.decompress(packed))
    return found


def _without_managers(each: Object) -> dict[str, Any]:
    """Return an object without the record of who wrote which field, half of it and never read."""
    metadata = {key: value for key, value in each["metadata"].items() if key != "managedFields"}
    return {**each, "metadata": metadata}
