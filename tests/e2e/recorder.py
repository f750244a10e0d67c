"""Everything that happens in the cluster, in order, from a session's first second to its last.

One watch for each kind runs all the time, through ``kubectl proxy``. What a test asserts about
*ever* ("no GPU pod was ever created", "one train Job in all") is asked of this record, and what a
test waits for is waited for here: a waiting test wakes up with each event, and sleeps otherwise.

A watch goes on from the last version that it saw. Where the API server no longer has that version,
events were lost; the record says so itself when it is asked what happened.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tests.e2e.kubectl import Kubectl, Object

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
LIST_SECONDS = 30.0

Change = Literal["ADDED", "MODIFIED", "DELETED"]
Found = TypeVar("Found")


class NotInTime(AssertionError):
    """Something that was waited for did not happen before its deadline."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change. ``at`` is when it arrived here, in seconds of the system clock."""

    kind: str
    change: Change
    object: Object
    at: float

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty for what has none) and name."""
        return key_of(self.object)


class Recorder:
    """The record. Use ``recording`` to make one."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Connect to the host and port of a ``kubectl proxy``; ``follow`` fills the record."""
        self._address = address
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._present: dict[str, dict[tuple[str, str], Object]] = {kind: {} for kind in WATCHED}
        self._gaps: list[str] = []
        self._closing = False

    def events(
        self, kind: str, namespace: str = "", where: Callable[[Object], bool] = lambda _: True
    ) -> list[Event]:
        """Return what happened to objects of a kind, in order. Raises RuntimeError after a loss.

        namespace: empty for all. where: which objects, as they were at that moment.
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
        """Return the objects of a kind that are there now."""
        with self._changed:
            return [
                found
                for key, found in self._present[kind].items()
                if namespace in ("", key[0]) and where(found)
            ]

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object as it is now, or None."""
        with self._changed:
            return self._present[kind].get((namespace, name))

    def wait(
        self,
        what: str,
        look: Callable[[], Found | None],
        *,
        seconds: float,
        unless: Callable[[], str | None] = lambda: None,
    ) -> Found:
        """Call ``look`` after each event until it returns something else than None or False.

        unless: gives a reason to stop waiting at once. Raises NotInTime.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = look()
                if found is not None and found is not False:
                    return found
                if reason := unless():
                    raise NotInTime(f"{what}: will not happen: {reason}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotInTime(f"{what}: not within {seconds:.0f} s")
                self._changed.wait(left)

    def follow(self, kind: str, ready: threading.Event) -> None:
        """Record a kind until the record is closed; ``ready`` is set after the first list."""
        version = ""
        while not self._closing:
            try:
                if not version:
                    version = self._list(kind, again=ready.is_set())
                    ready.set()
                version = self._watch(kind, version)
            except (OSError, http.client.HTTPException, ValueError):
                # The API server is away for a moment; the last version is still good.
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Tell the threads that what they see from now on is the end."""
        self._closing = True

    def _list(self, kind: str, *, again: bool) -> str:
        with self._get(WATCHED[kind]) as answer:
            listed = json.loads(answer.read())
        if "items" not in listed:
            raise ValueError(f"{kind}: {listed.get('message', listed)}")
        now = {key_of(item): _lean(item) for item in listed["items"]}
        with self._changed:
            if again:
                self._gaps.append(f"the watch of {kind} was interrupted")
            for key in set(self._present[kind]) - set(now):
                self._take(kind, "DELETED", self._present[kind][key])
            for item in now.values():
                self._take(kind, "ADDED", item)
        return str(listed["metadata"]["resourceVersion"])

    def _watch(self, kind: str, version: str) -> str:
        """Record until the watch ends; return the version to go on from, empty to list again."""
        query = f"watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}"
        with self._get(f"{WATCHED[kind]}?{query}&resourceVersion={version}") as answer:
            if answer.status != 200:
                return ""
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                with self._changed:
                    self._take(kind, event["type"], _lean(event["object"]))
        return version

    def _take(self, kind: str, change: Change, item: Object) -> None:
        event = Event(kind=kind, change=change, object=item, at=time.time())
        self._events.append(event)
        if change == "DELETED":
            self._present[kind].pop(event.key, None)
        else:
            self._present[kind][event.key] = item
        self._changed.notify_all()

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
def recording(kubectl: Kubectl, kinds: Iterable[str] = tuple(WATCHED)) -> Iterator[Recorder]:
    """Record until the block ends. Begins when every kind was listed once."""
    with kubectl.proxy() as address:
        recorder = Recorder(address)
        ready = {kind: threading.Event() for kind in kinds}
        threads = [
            threading.Thread(target=recorder.follow, args=each, daemon=True)
            for each in ready.items()
        ]
        for thread in threads:
            thread.start()
        for kind, event in ready.items():
            if not event.wait(LIST_SECONDS):
                raise NotInTime(f"the first list of {kind}: not within {LIST_SECONDS:.0f} s")
        yield recorder
        recorder.close()
    for thread in threads:
        thread.join(10)


def key_of(item: Object) -> tuple[str, str]:
    """Return an object's namespace (empty for what has none) and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _lean(item: dict[str, Any]) -> dict[str, Any]:
    item["metadata"].pop("managedFields", None)
    return item
