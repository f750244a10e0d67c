"""Record all changes in the cluster, in order, during a test session.

One watch per kind runs all the time through ``kubectl proxy``. Assertions about the past ("no pod
with a GPU was ever created", "exactly one train Job existed") use this record. Tests also wait for
conditions with this record: a waiting test is woken up by each event.

A watch continues from the last resourceVersion that it received. If the API server no longer has
this version, events are lost, and the next query of the record raises an error.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tests.support.local_cluster.kubectl import Kubectl, Object

WATCHED = {
    "FineTuneJob": "/apis/finetune.dev/v1alpha1/finetunejobs",
    "Job": "/apis/batch/v1/jobs",
    "Pod": "/api/v1/pods",
    "PersistentVolumeClaim": "/api/v1/persistentvolumeclaims",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "ConfigMap": "/api/v1/configmaps",
    "Deployment": "/apis/apps/v1/deployments",
    "ReplicaSet": "/apis/apps/v1/replicasets",
    "Service": "/api/v1/services",
    "Lease": "/apis/coordination.k8s.io/v1/leases",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/networkpolicies",
}
WATCH_SECONDS = 600
RETRY_SECONDS = 0.5
LIST_SECONDS = 120.0

Change = Literal["ADDED", "MODIFIED", "DELETED"]
Found = TypeVar("Found")


class WaitTimeout(AssertionError):
    """A condition was not met before its deadline."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change. ``at``: time of arrival, in seconds of the system clock."""

    kind: str
    change: Change
    object: Object
    at: float

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty for cluster-scoped objects) and name."""
        return key_of(self.object)


class Recorder:
    """The record; ``recording`` creates one."""

    def __init__(
        self, address: tuple[str, int], kinds: Mapping[str, str] = WATCHED, *, whole: bool = False
    ) -> None:
        """Connect to the host and port of a ``kubectl proxy``; ``follow`` fills the record.

        kinds: their paths. whole: the record contains metadata.managedFields.
        """
        self._address, self._kinds, self._whole = address, kinds, whole
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._present: dict[str, dict[tuple[str, str], Object]] = {kind: {} for kind in kinds}
        self._versions: dict[str, str] = {}
        """The resourceVersion from which the watch of a kind continues; none: it lists first."""
        self._gaps: list[str] = []
        self._closing = False

    def events(
        self, kind: str, namespace: str = "", where: Callable[[Object], bool] = lambda _: True
    ) -> list[Event]:
        """Return the changes of the objects of a kind, in order. Raises RuntimeError after a loss.

        namespace: empty for all namespaces. where: selects objects by their content at the time of
        the change.
        """
        with self._changed:
            if self._gaps:
                raise RuntimeError(f"events were lost: {'; '.join(self._gaps)}")
            return [
                event
                for event in self._events
                if event.kind == kind and namespace in ("", event.key[0]) and where(event.object)
            ]

    def present(
        self, kind: str, namespace: str = "", where: Callable[[Object], bool] = lambda _: True
    ) -> list[Object]:
        """Return the existing objects of a kind."""
        with self._changed:
            return [
                found
                for key, found in self._present[kind].items()
                if namespace in ("", key[0]) and where(found)
            ]

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return the current object, or None."""
        with self._changed:
            return self._present[kind].get((namespace, name))

    def wait(
        self,
        what: str,
        check: Callable[[], Found | None],
        *,
        seconds: float,
        unless: Callable[[], str | None] = lambda: None,
        progress: Callable[[], Hashable] = lambda: None,
    ) -> Found:
        """Call ``check`` after each event until it returns a value other than None and False.

        seconds: time without progress, which is a new value of ``progress``. A slow machine thus
        does not fail a test. unless: returns a reason to stop waiting immediately. Raises
        WaitTimeout.
        """
        reached: set[Hashable] = set()
        with self._changed:
            while True:
                if (now := progress()) not in reached:
                    reached.add(now)
                    deadline = time.monotonic() + seconds
                found = check()
                if found is not None and found is not False:
                    return found
                if reason := unless():
                    raise WaitTimeout(f"{what}: will not happen: {reason}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(f"{what}: no progress within {seconds:.0f} s")
                self._changed.wait(left)

    def follow(self, kind: str, ready: threading.Event) -> None:
        """Record a kind until the record is closed; ``ready`` is set after the first list."""
        while not self._closing:
            try:
                if kind not in self._versions:
                    self._list(kind, again=ready.is_set())
                    ready.set()
                self._watch(kind)
            except (OSError, http.client.HTTPException, ValueError):
                # The API server is unavailable for a moment; the last version is still valid.
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Stop the threads after their next event."""
        self._closing = True

    def _list(self, kind: str, *, again: bool) -> None:
        with self._get(self._kinds[kind]) as answer:
            listed = json.loads(answer.read())
        if "items" not in listed:
            raise ValueError(f"{kind}: {listed.get('message', listed)}")
        now = {key_of(item): self._lean(item) for item in listed["items"]}
        with self._changed:
            if again:
                self._gaps.append(f"the watch of {kind} was interrupted")
            for key in set(self._present[kind]) - set(now):
                self._take(kind, "DELETED", self._present[kind][key])
            for item in now.values():
                self._take(kind, "ADDED", item)
        self._versions[kind] = str(listed["metadata"]["resourceVersion"])

    def _watch(self, kind: str) -> None:
        """Record until the watch ends. Raises HTTPException if the API server is overloaded."""
        query = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}"
        query += f"&resourceVersion={self._versions[kind]}"
        with self._get(f"{self._kinds[kind]}?{query}") as answer:
            if answer.status != http.client.OK:
                self._failed(kind, json.loads(answer.read()))
                return
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self._failed(kind, event["object"])
                    return
                version = event["object"]["metadata"]["resourceVersion"]
                with self._changed:
                    if event["type"] != "BOOKMARK":
                        self._take(kind, event["type"], self._lean(event["object"]))
                    # If the connection breaks, the watch continues here and repeats no event.
                    self._versions[kind] = version

    def _failed(self, kind: str, status: Object) -> None:
        """List again if the API server no longer has the version; otherwise raise HTTPException."""
        if status.get("code") != http.client.GONE:
            raise http.client.HTTPException(f"{kind}: {status.get('message', status)}")
        del self._versions[kind]

    def _take(self, kind: str, change: Change, item: Object) -> None:
        event = Event(kind=kind, change=change, object=item, at=time.time())
        self._events.append(event)
        if change == "DELETED":
            self._present[kind].pop(event.key, None)
        else:
            self._present[kind][event.key] = item
        self._changed.notify_all()

    def _lean(self, item: dict[str, Any]) -> dict[str, Any]:
        if not self._whole:
            item["metadata"].pop("managedFields", None)
        return item

    @contextmanager
    def _get(self, path: str) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(*self._address, timeout=WATCH_SECONDS + 60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status >= 500:
                raise http.client.HTTPException(f"{path}: {answer.status}")
            yield answer
        finally:
            connection.close()


@contextmanager
def recording(
    kubectl: Kubectl, kinds: Mapping[str, str] = WATCHED, *, whole: bool = False
) -> Iterator[Recorder]:
    """Record until the block ends. The block starts after the first list of every kind.

    whole: the record contains metadata.managedFields.
    """
    with kubectl.proxy() as address:
        recorder = Recorder(address, kinds, whole=whole)
        ready = {kind: threading.Event() for kind in kinds}
        threads = [
            threading.Thread(target=recorder.follow, args=each, daemon=True)
            for each in ready.items()
        ]
        for thread in threads:
            thread.start()
        for kind, event in ready.items():
            if not event.wait(LIST_SECONDS):
                raise WaitTimeout(f"the first list of {kind}: not within {LIST_SECONDS:.0f} s")
        yield recorder
        recorder.close()
    for thread in threads:
        thread.join(10)


def key_of(item: Object) -> tuple[str, str]:
    """Return the namespace (empty for cluster-scoped objects) and the name of an object."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
