"""The objects of one controller, as the watches and the responses to our own writes report them.

Objects arrive in any order: from a list, from a watch, in the response to a write, in a live read.
Within one kind, resourceVersions are ordered (Kubernetes 1.35 documents that; etcd always did it),
so the newest version of an object wins. A deletion leaves a tombstone: what arrives later about the
deleted version, or about an older one, is dropped. Versions of two kinds are never compared.

Objects are trimmed and kept as bytes (``objects.compact``). Only those of our own kinds are kept
whole.
"""

import sys
import time
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from finetune_operator.objects.compact.encoding import decoded, encoded
from finetune_operator.objects.compact.trimming import DIGESTS, fitted, news, reduced
from finetune_operator.objects.digest import own_version
from finetune_operator.snapshot.watches import JOBS, Watches
from finetune_operator.telemetry import metrics
from finetune_operator.types import Key, Object

TOMBSTONE_SECONDS = 600.0
"""For longer than a response or an event can be delayed."""

Name = tuple[str, str]
"""Namespace and name of an object."""


@dataclass(slots=True, kw_only=True)
class _Entry:
    version: int
    key: Key
    content: int
    """Changes if a reconcile may decide something else, and if another object has the name."""
    verified: bool
    """Whether the digests of a ConfigMap's data are known."""
    data: bytes


class ObjectStore:
    """Entries by kind and name, and the names of the children of each owner.

    The class is not thread-safe: watches and workers run in one event loop. Tests replace
    ``clock``.
    """

    def __init__(
        self, watches: Watches = JOBS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.watches, self._clock = watches, clock
        self.on_removal: Callable[[Object], None] = lambda item: None
        """Takes the last state of an object whose deletion a watch reports."""
        self.on_own_change: Callable[[Key, Object | None], None] = lambda key, item: None
        """Takes each version of an object of our own kind, and None once it is deleted."""
        self.on_child_change: Callable[[Key, str, Name, Object | None], None] = (
            lambda key, kind, name, child: None
        )
        """Takes each version of a child of an owner, and None once the owner has it no longer."""
        self._entries: dict[str, dict[Name, _Entry]] = {
            kind: {} for kind in (watches.own, *watches.owned)
        }
        self._children: dict[Key, list[tuple[str, Name]]] = {}
        """Sorted; a set of as many elements would need four times the memory."""
        self._tombstones: OrderedDict[tuple[str, Name], tuple[int, float]] = OrderedDict()
        for kind, entries in self._entries.items():
            metrics.CACHE_OBJECTS.labels(watches.series(kind)).set_function(entries.__len__)

    def put(self, item: Object) -> tuple[Key, ...]:
        """Store an object, unless a newer version or its deletion is known.

        Return the keys of the owners for which it contains news: the owner in its label, and the
        owner that was in its label before.
        """
        kind, name, version = item["kind"], name_of(item), version_of(item)
        stored = self._entries[kind].get(name)
        if stored is not None and version <= stored.version:
            if version == stored.version and not stored.verified and "data" in item:
                # A live read of a ConfigMap, of which a watch reported the metadata.
                _, plain = _trimmed(item)
                stored.data, stored.verified = plain, True
            return ()
        if version <= self._tombstones.get((kind, name), (0, 0.0))[0]:
            return ()
        key = self._key_of(item)
        if key is None:
            return self._remove(kind, name, version)
        if siblings := self._children.get(key):
            # All objects of an owner share one key in memory.
            of_kind, first = siblings[0]
            key = self._entries[of_kind][first].key
        body, plain = _trimmed(item)
        entry = _Entry(
            version=version,
            key=key,
            content=self._content(body, plain),
            verified=DIGESTS in body,
            data=plain,
        )
        self._entries[kind][name] = entry
        if kind == self.watches.own:
            self.on_own_change(key, item)
        else:
            if stored is not None and stored.key != key:
                self._unlink(stored.key, kind, name)
            if stored is None or stored.key != key:
                insort(self._children.setdefault(key, []), (kind, name))
            self.on_child_change(key, kind, name, item)
        if stored is None:
            return (key,)
        if stored.key != key:
            return (stored.key, key)
        return () if stored.content == entry.content else (key,)

    def remove(self, item: Object) -> tuple[Key, ...]:
        """Remove an object that was deleted, or lost its label, in the version of ``item``.

        Return the keys of the owners for which that is news.
        """
        self.on_removal(item)
        return self._remove(item["kind"], name_of(item), version_of(item))

    def evict(self, kind: str, name: Name, version: int) -> tuple[Key, ...]:
        """Remove an object that a live read did not find. version: the stored one before the read.

        A newer version arrived during the read, and stays.
        """
        stored = self._entries[kind].get(name)
        if stored is None or stored.version > version:
            return ()
        return self._remove(kind, name, version)

    def retain(
        self,
        kind: str,
        names: Collection[Name],
        version: int,
        *,
        namespace: str = "",
        key: Key | None = None,
    ) -> tuple[Key, ...]:
        """Remove the objects that are not in a complete list; return the keys of their owners.

        version: of the list; newer objects stay. namespace, key: to which the list was restricted.
        """
        candidates: Iterable[Name] = self._entries[kind] if key is None else self._names(kind, key)
        gone = [
            name
            for name in candidates
            if name not in names
            and namespace in ("", name[0])
            and self._entries[kind][name].version <= version
        ]
        return tuple(owner for name in gone for owner in self._remove(kind, name, version))

    def own_keys(self) -> list[Key]:
        """Return the keys of all objects of our own kind."""
        return list(self._entries[self.watches.own])

    def owner(self, key: Key) -> Object | None:
        """Return the object of our own kind with a key, or None."""
        return self.get(self.watches.own, key)

    def get(self, kind: str, name: Name) -> Object | None:
        """Return an object, or None."""
        stored = self._entries[kind].get(name)
        return None if stored is None else _decoded(stored)

    def all(self, kind: str, namespace: str) -> list[Object]:
        """Return the objects of a kind whose owners are in a namespace."""
        stored = self._entries[kind].values()
        return [_decoded(entry) for entry in stored if entry.key[0] == namespace]

    def namespaces(self, kind: str) -> set[str]:
        """Return the namespaces of the owners of the objects of a kind."""
        return {entry.key[0] for entry in self._entries[kind].values()}

    def version(self, kind: str, name: Name) -> int:
        """Return the version of an object, 0 if it is unknown."""
        stored = self._entries[kind].get(name)
        return 0 if stored is None else stored.version

    def children(self, key: Key) -> dict[str, tuple[Object, ...]]:
        """Return the objects with the label of an owner, by their field in the snapshot."""
        fields = self.watches.owned
        children: dict[str, list[Object]] = {field: [] for field in fields.values()}
        for kind, name in self._children.get(key, ()):
            children[fields[kind]].append(_decoded(self._entries[kind][name]))
        return {field: tuple(objects) for field, objects in children.items()}

    def is_verified(self, name: Name) -> bool:
        """Report whether the digests of a ConfigMap's data are known."""
        stored = self._entries["ConfigMap"].get(name)
        return stored is not None and stored.verified

    def _key_of(self, item: Object) -> Key | None:
        key = self.watches.key_of(item)
        return None if key is None else (sys.intern(key[0]), sys.intern(key[1]))

    def _content(self, body: dict[str, Any], plain: bytes) -> int:
        """Return a number that depends on uid and on everything that a reconcile uses.

        body: a trimmed object without its version; plain: its bytes.
        """
        if body["kind"] == self.watches.own:
            return own_version(body)
        used = news(body)
        return hash(plain if used is body else encoded(used))

    def _names(self, kind: str, key: Key) -> list[Name]:
        return [name for of_kind, name in self._children.get(key, ()) if of_kind == kind]

    def _remove(self, kind: str, name: Name, version: int) -> tuple[Key, ...]:
        stored = self._entries[kind].get(name)
        if stored is not None and stored.version > version:
            return ()
        self._bury(kind, name, version)
        if stored is None:
            return ()
        del self._entries[kind][name]
        if kind == self.watches.own:
            self.on_own_change(stored.key, None)
        else:
            self._unlink(stored.key, kind, name)
        return (stored.key,)

    def _bury(self, kind: str, name: Name, version: int) -> None:
        now = self._clock()
        buried = max(version, self._tombstones.get((kind, name), (0, 0.0))[0])
        self._tombstones[kind, name] = (buried, now)
        self._tombstones.move_to_end((kind, name))
        while self._tombstones:
            _, at = next(iter(self._tombstones.values()))
            if now - at < TOMBSTONE_SECONDS:
                break
            self._tombstones.popitem(last=False)

    def _unlink(self, key: Key, kind: str, name: Name) -> None:
        children = self._children[key]
        removed = children.pop(bisect_left(children, (kind, name)))
        assert removed == (kind, name), "every object of an owner must be in its list"
        self.on_child_change(key, kind, name, None)
        if not children:
            del self._children[key]


def name_of(item: Object) -> Name:
    """Return namespace (empty if the object is cluster-scoped) and name of an object."""
    # The keys and names of thousands of objects share few namespaces.
    return sys.intern(item["metadata"].get("namespace", "")), item["metadata"]["name"]


def version_of(item: Object) -> int:
    """Return the resourceVersion of an object, or of a list, as a number."""
    return int(item["metadata"]["resourceVersion"])


def _decoded(entry: _Entry) -> Object:
    body: dict[str, Any] = decoded(entry.data)
    body["metadata"]["resourceVersion"] = str(entry.version)
    return body


def _trimmed(item: Object) -> tuple[dict[str, Any], bytes]:
    """Return a trimmed object without its version, and its bytes, which depend on nothing else."""
    body = reduced(item)
    del body["metadata"]["resourceVersion"]
    return fitted(body)
