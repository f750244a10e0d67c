"""What an API server and the way to it do at their worst, each in namespaces of its own.

All lives go on side by side, with one kubelet for all; every operator is confined to the namespaces
whose misfortune it is to bear. Each must leave what a life without any leaves, and must create no
Job twice. The outage is a real minute long: kopf's own patience would be at an end after 54 s.
"""

import json
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.fakes import kubelet
from tests.integration.controlplane import TOKEN, ControlPlane, wait_until
from tests.integration.course import Course, fate_in, snapshot
from tests.integration.fleet import Fleet, Life
from tests.integration.namespace import Namespace
from tests.integration.operatorprocess import CONFIG, OperatorProcess, operator
from tests.integration.relay import CUT, LOSE, PASS, Call, Fate, Relay, answer, relay
from tests.integration.writes import Writes

pytestmark = pytest.mark.usefixtures("controller_manager")

OUTAGE_SECONDS = 60.0
RETRY_AFTER = 2
BUSY = answer(429, Retry_After=str(RETRY_AFTER))

Kind = Literal["look", "read", "write"]
"""A reconcile is recognized by its one GET of the job."""
Misfortune = Callable[[Kind, int], Fate]
"""Takes the kind of a request and its number among those; returns what becomes of it."""
# A look makes a dozen reads: one of 19 fails, so that about every other look gets through.
REQUESTS: Mapping[str, Misfortune] = {
    "conflicts": lambda kind, n: answer(409) if kind == "write" and n % 3 == 0 else PASS,
    "answers-lost": lambda kind, n: LOSE if kind == "write" and n % 2 else PASS,
    "busy": lambda kind, n: BUSY if kind == "look" and n % 4 == 0 else PASS,
    "broken": lambda kind, n: (
        PASS if n % {"look": 5, "read": 19, "write": 5}[kind] else answer(500)
    ),
    "cut": lambda kind, n: PASS if n % {"look": 5, "read": 19, "write": 5}[kind] else CUT,
}
STAGES = ("prepare", "train", "merge", "serve")


class Requests:
    """Lets requests fail by the namespace that they are about; counts how many did.

    waits: seconds between a reconcile that was rejected with Retry-After and the next one.
    """

    def __init__(self) -> None:
        self.befell: Counter[str] = Counter()
        self.waits: list[float] = []
        self._count: Counter[tuple[str, Kind]] = Counter()
        self._busy_at = 0.0

    def decide(self, call: Call) -> Fate:
        misfortune = REQUESTS.get(call.namespace)
        if misfortune is None or call.watches:
            return PASS
        of_job = call.path.endswith("/finetunejobs/demo")
        kind: Kind = "write" if call.writes else "look" if of_job else "read"
        if call.namespace == "busy" and kind == "look" and self._busy_at:
            self.waits.append(call.at - self._busy_at)
            self._busy_at = 0.0
        self._count[call.namespace, kind] += 1
        fate = misfortune(kind, self._count[call.namespace, kind])
        if fate is not PASS:
            self.befell[call.namespace] += 1
        if fate is BUSY:
            self._busy_at = call.at
        return fate


class Outage:
    """One job in each stage, and what happens to them while the operator is cut off.

    The kubelet continues; one job is created, one unsuspended, one deleted, and the Deployment of a
    serving job is deleted. After the outage every watch is rejected because its version is too old.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.names = [*STAGES, "suspended", "served", "deleted", "created"]
        self.places = {
            name: Namespace(plane, plane.namespace(f"outage-{name}")) for name in self.names
        }
        self.objects: dict[str, dict[str, Any]] = {}
        self.began = 0.0
        self.is_on = False
        self.over_after = 0.0
        self._gone = _too_old(plane)
        self._told: set[str] = set()

    def namespaces(self) -> list[str]:
        return [place.name for place in self.places.values()]

    def fate(self, pod: dict[str, Any]) -> dict[str, Any] | None:
        """Let every stage complete, but for the one that the outage shall meet; it begins there."""
        stage = kubelet.stage_of(pod)
        if pod["metadata"]["namespace"] == f"outage-{stage}" and not self.is_on:
            return None
        return kubelet.serving() if stage == "serve" else kubelet.completed(stage)

    def ready(self, fleet: Fleet) -> bool:
        """Tell whether every job is where the outage is to meet it."""
        reasons = {name: fleet.reason(place.name) for name, place in self.places.items()}
        reached = {kubelet.stage_of(pod) for pod in fleet.pods if _is_held(pod)}
        return (
            reached == set(STAGES)
            and reasons["suspended"] == "SuspendedByUser"
            and reasons["served"] == reasons["deleted"] == "Serving"
        )

    def course(self, fleet: Fleet, between: Relay) -> Life:
        places = self.places
        for name in self.names[:-1]:
            places[name].submit(suspend=name == "suspended")
        yield "every job is where the outage is to meet it", lambda: self.ready(fleet)
        self.began, self.is_on = time.monotonic(), True
        between.decide = lambda call: CUT
        between.cut_watches()
        # Changes during the outage, which no watch reports.
        path = places["suspended"].path("finetunejobs", "demo")
        self.plane.merge(path, {"spec": {"suspend": False}})
        places["created"].submit()
        self.plane.delete(places["deleted"].path("finetunejobs", "demo"))
        self.plane.delete(places["served"].path("deployments"))
        yield "a minute is over", lambda: time.monotonic() > self.began + OUTAGE_SECONDS
        between.decide = self.too_old_at_first
        ended = time.monotonic()
        yield (
            "all serve",
            lambda: all(
                fleet.reason(place.name) == "Serving" and len(place.items("deployments")) == 1
                for name, place in places.items()
                if name != "deleted"
            ),
        )
        self.over_after = time.monotonic() - ended
        self.objects = {name: snapshot(place) for name, place in places.items()}
        for name, place in places.items():
            if name != "deleted":
                self.plane.delete(place.path("finetunejobs", "demo"))

    def too_old_at_first(self, call: Call) -> Fate:
        if call.watches and "/leases" not in call.path and call.path not in self._told:
            self._told.add(call.path)
            return Fate(what="answer", status=200, body=self._gone)
        return PASS

    @property
    def expired(self) -> int:
        """Number of watches that were rejected because their version is too old."""
        return len(self._told)


def _is_held(pod: Mapping[str, Any]) -> bool:
    labels, namespace = pod["metadata"]["labels"], pod["metadata"]["namespace"]
    return bool(namespace == f"outage-{labels['finetune.dev/stage']}")


def _too_old(plane: ControlPlane) -> bytes:
    """Return what the API server says to a watch that begins before what it remembers."""
    path = "/apis/finetune.dev/v1alpha1/finetunejobs?watch=1&resourceVersion=1&timeoutSeconds=1"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(plane.server + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30, context=plane.tls) as said:
        text: bytes = said.read()
    event = json.loads(text)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    return text


def cutting(course: Course, between: Relay, cuts: list[int]) -> Iterator[Any]:
    """Close every watch once a second for as long as a life lasts."""
    for what, ready in course.life():
        last = [time.monotonic()]

        def and_cut(ready: Callable[[], bool] = ready, last: list[float] = last) -> bool:
            if time.monotonic() > last[0] + 1:
                last[0] = time.monotonic()
                cuts.append(between.cut_watches())
            return ready()

        yield what, and_cut


def test_failures_do_not_change_the_end_of_a_life(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    courses: dict[str, Course] = {}
    requests, writes = Requests(), Writes()
    cuts: list[int] = []
    with ExitStack() as stack:

        def start(name: str, namespaces: list[str]) -> tuple[Relay, OperatorProcess]:
            folder = tmp_path / name
            folder.mkdir()
            between = stack.enter_context(relay(control_plane, folder))
            between.after = writes.after
            config = {**CONFIG, "watchNamespaces": namespaces, "logLevel": "info"}
            way = {"kubeconfig": between.kubeconfig, "prelude": PRELUDE}
            return between, stack.enter_context(operator(control_plane, folder, config, **way))

        for name in ("undisturbed", "watches-cut", *REQUESTS):
            place = Namespace(control_plane, control_plane.namespace(name))
            courses[name] = Course(Fleet(plane=control_plane), place)
        at_requests, first = start("requests", ["undisturbed", *REQUESTS])
        at_requests.decide = requests.decide
        at_watches, second = start("watches", ["watches-cut"])
        outage = Outage(control_plane)
        at_all, third = start("outage", outage.namespaces())

        fleet = Fleet(
            plane=control_plane, fate=lambda pod: fate_in(courses, pod) or _in_outage(outage, pod)
        )
        for course in courses.values():
            course.fleet = fleet
        fleet.begin("outage", outage.course(fleet, at_all))
        for name, course in courses.items():
            if name == "watches-cut":
                fleet.begin(name, cutting(course, at_watches, cuts))
            else:
                fleet.begin(name, course.life())
        fleet.until("every life is over", lambda: not fleet.alive, seconds=240)
        # Jobs that were deleted during the outage are no longer counted.
        wait_until("no job is left to count", lambda: third.metric("finetune_jobs") == 0)
        ends = {each.process.poll() for each in (first, second, third)}

    with capsys.disabled():
        befell = ", ".join(f"{name} {count}" for name, count in sorted(requests.befell.items()))
        sys.stdout.write(
            f"\n    befell: {befell}, watches cut {sum(cuts)}; all serve "
            f"{outage.over_after:.1f} s after an outage of {OUTAGE_SECONDS:.0f} s\n"
        )
    assert ends == {None}, "a process ended"
    made, objects = writes.jobs_of("undisturbed"), courses["undisturbed"].objects
    assert len(made) == 7
    for name, course in courses.items():
        assert course.objects == objects, name
        assert writes.jobs_of(name) == made, name
    assert set(requests.befell) == set(REQUESTS)
    assert min(requests.befell.values()) >= 3
    assert len(requests.waits) >= 2
    assert min(requests.waits) >= RETRY_AFTER
    assert sum(cuts) > 20

    assert outage.expired == 5 * len(outage.names)
    after = outage.objects
    assert after.pop("deleted") == {}
    for name, found in after.items():
        assert found == after["prepare"], name
        created = writes.jobs_of(f"outage-{name}")
        assert sorted(created.values()) == [1, 1, 1], (name, created)


def _in_outage(outage: Outage, pod: dict[str, Any]) -> dict[str, Any] | None:
    return outage.fate(pod) if pod["metadata"]["namespace"].startswith("outage-") else None


PRELUDE = "import finetune_operator.controller.resync as resync; resync.RESYNC_SECONDS = 10.0"
"""Shortens the interval between resyncs."""
