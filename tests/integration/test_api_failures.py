"""Failures of the API server and of the connection to it, each in a separate namespace.

All scenarios run at the same time with one fake kubelet. Each operator watches only the namespaces
of its kind of failure. Every scenario must produce the same objects as a scenario without failures,
and must create no Job twice. The outage lasts longer than kopf would retry by default (54 s).
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
from tests.integration.lifecycle import Lifecycle, pod_status, snapshot
from tests.integration.relay import CUT, LOSE, PASS, Call, Outcome, Relay, answer, relay
from tests.integration.write_counter import WriteCounter
from tests.support.api_server.controlplane import TOKEN, ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess, operator
from tests.support.api_server.scenarios import Scenario, ScenarioRunner

pytestmark = pytest.mark.usefixtures("controller_manager")

OUTAGE_SECONDS = 90.0
RETRY_AFTER = 2
BUSY = answer(429, Retry_After=str(RETRY_AFTER))

Kind = Literal["read", "write"]
Failure = Callable[[Kind, int], Outcome]
"""Takes the kind of a request and its number within the kind; returns the outcome."""
# After a failure, a reconcile sends about ten reads. One in 19 fails, so about half of these
# reconciles succeed.
REQUESTS: Mapping[str, Failure] = {
    "conflicts": lambda kind, n: answer(409) if kind == "write" and n % 3 == 0 else PASS,
    "answers-lost": lambda kind, n: LOSE if kind == "write" and n % 2 else PASS,
    "busy": lambda kind, n: BUSY if kind == "write" and n % 4 == 0 else PASS,
    "broken": lambda kind, n: PASS if n % {"read": 19, "write": 5}[kind] else answer(500),
    "cut": lambda kind, n: PASS if n % {"read": 19, "write": 5}[kind] else CUT,
}
STAGES = ("prepare", "train", "merge", "serve")


class Requests:
    """Injects a failure per namespace, and counts the failed requests in ``injected``.

    waits: seconds between a request that was rejected with Retry-After and the next one. Requests
    that follow within half of that time are rejected, too, because a reconcile sends several writes
    at once. Events are not counted: a reconcile writes them even if another write failed.
    """

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.waits: list[float] = []
        self._count: Counter[tuple[str, Kind]] = Counter()
        self._busy_at = 0.0

    def decide(self, call: Call) -> Outcome:
        failure = REQUESTS.get(call.namespace)
        lists = (
            call.method == "GET"
            and "limit" in call.query
            and "demo" not in call.query.get("labelSelector", "")
        )
        if failure is None or call.watches or lists or "/events" in call.path:
            return PASS
        kind: Kind = "write" if call.writes else "read"
        if call.namespace == "busy" and self._busy_at:
            if call.at - self._busy_at < RETRY_AFTER / 2:
                self._busy_at = call.at
                return BUSY
            self.waits.append(call.at - self._busy_at)
            self._busy_at = 0.0
        self._count[call.namespace, kind] += 1
        outcome = failure(kind, self._count[call.namespace, kind])
        if outcome is not PASS:
            self.injected[call.namespace] += 1
        if outcome is BUSY:
            self._busy_at = call.at
        return outcome


class Outage:
    """An outage of the API server for the operator, with one job in each stage.

    During the outage the kubelet continues, one job is created, one resumed, one deleted, and the
    Deployment of a serving job is deleted. After the outage, every watch is rejected because its
    version is too old.
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
        self._expired: set[str] = set()

    def namespaces(self) -> list[str]:
        return [place.name for place in self.places.values()]

    def pod_status(self, pod: dict[str, Any]) -> dict[str, Any] | None:
        """Complete every stage, except the stage during which the outage of the job starts."""
        stage = kubelet.stage_of(pod)
        if pod["metadata"]["namespace"] == f"outage-{stage}" and not self.is_on:
            return None
        return kubelet.serving() if stage == "serve" else kubelet.completed(stage)

    def ready(self, runner: ScenarioRunner) -> bool:
        """Report whether every job has reached the state in which the outage starts."""
        reasons = {name: runner.reason(place.name) for name, place in self.places.items()}
        reached = {kubelet.stage_of(pod) for pod in runner.pods if _is_held(pod)}
        return (
            reached == set(STAGES)
            and reasons["suspended"] == "SuspendedByUser"
            and reasons["served"] == reasons["deleted"] == "Serving"
        )

    def scenario(self, runner: ScenarioRunner, between: Relay) -> Scenario:
        places = self.places
        for name in self.names[:-1]:
            places[name].submit(suspend=name == "suspended")
        yield "every job is ready for the outage", lambda: self.ready(runner)
        self.began, self.is_on = time.monotonic(), True
        between.decide = lambda call: CUT
        between.cut_watches()
        # Changes during the outage, which no watch reports.
        path = places["suspended"].path("finetunejobs", "demo")
        self.plane.merge(path, {"spec": {"suspend": False}})
        places["created"].submit()
        self.plane.delete(places["deleted"].path("finetunejobs", "demo"))
        self.plane.delete(places["served"].path("deployments"))
        yield "the time is over", lambda: time.monotonic() > self.began + OUTAGE_SECONDS
        between.decide = self.too_old_at_first
        ended = time.monotonic()
        yield (
            "all serve",
            lambda: all(
                runner.reason(place.name) == "Serving" and len(place.items("deployments")) == 1
                for name, place in places.items()
                if name != "deleted"
            ),
        )
        self.over_after = time.monotonic() - ended
        self.objects = {name: snapshot(place) for name, place in places.items()}
        for name, place in places.items():
            if name != "deleted":
                self.plane.delete(place.path("finetunejobs", "demo"))

    def too_old_at_first(self, call: Call) -> Outcome:
        if call.watches and "/leases" not in call.path and call.path not in self._expired:
            self._expired.add(call.path)
            return Outcome(what="answer", status=200, body=self._gone)
        return PASS

    @property
    def expired(self) -> int:
        """Number of watches that were rejected because their version is too old."""
        return len(self._expired)


def _is_held(pod: Mapping[str, Any]) -> bool:
    labels, namespace = pod["metadata"]["labels"], pod["metadata"]["namespace"]
    return bool(namespace == f"outage-{labels['finetune.dev/stage']}")


def _too_old(plane: ControlPlane) -> bytes:
    """Return the response of the API server to a watch from a resourceVersion that is too old."""
    path = "/apis/finetune.dev/v1alpha1/finetunejobs?watch=1&resourceVersion=1&timeoutSeconds=1"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(plane.server + path, headers=headers)
    with urllib.request.urlopen(request, timeout=30, context=plane.tls) as response:
        text: bytes = response.read()
    event = json.loads(text)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    return text


def cutting(lifecycle: Lifecycle, between: Relay, cuts: list[int]) -> Iterator[Any]:
    """Run a lifecycle, and close all watches once per second until it ends."""
    for what, ready in lifecycle.scenario():
        last = [time.monotonic()]

        def and_cut(ready: Callable[[], bool] = ready, last: list[float] = last) -> bool:
            if time.monotonic() > last[0] + 1:
                last[0] = time.monotonic()
                cuts.append(between.cut_watches())
            return ready()

        yield what, and_cut


def test_failures_of_requests_do_not_change_the_result(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lifecycles: dict[str, Lifecycle] = {}
    requests, writes = Requests(), WriteCounter()
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
            lifecycles[name] = Lifecycle(ScenarioRunner(plane=control_plane), place)
        at_requests, first = start("requests", ["undisturbed", *REQUESTS])
        at_requests.decide = requests.decide
        at_watches, second = start("watches", ["watches-cut"])
        outage = Outage(control_plane)
        at_all, third = start("outage", outage.namespaces())

        runner = ScenarioRunner(
            plane=control_plane,
            pod_status=lambda pod: pod_status(lifecycles, pod) or _in_outage(outage, pod),
        )
        for lifecycle in lifecycles.values():
            lifecycle.runner = runner
        runner.begin("outage", outage.scenario(runner, at_all))
        for name, lifecycle in lifecycles.items():
            if name == "watches-cut":
                runner.begin(name, cutting(lifecycle, at_watches, cuts))
            else:
                runner.begin(name, lifecycle.scenario())
        runner.until("every scenario has ended", lambda: not runner.unfinished)
        # A watch of objects that no job needs can be reopened later.
        expected = 10 * len(outage.names) + 2  # Profiles and budgets belong to no namespace.
        wait_until("every watch was rejected once", lambda: outage.expired >= expected)
        # Jobs that were deleted during the outage are no longer counted.
        wait_until("the metric counts no job", lambda: third.metric("finetune_jobs") == 0)
        ends = {each.process.poll() for each in (first, second, third)}

    with capsys.disabled():
        injected = ", ".join(f"{name} {count}" for name, count in sorted(requests.injected.items()))
        sys.stdout.write(
            f"\n    injected: {injected}, watches cut {sum(cuts)}; all serve "
            f"{outage.over_after:.1f} s after an outage of {OUTAGE_SECONDS:.0f} s\n"
        )
    assert ends == {None}, "a process ended"
    made, objects = writes.jobs_of("undisturbed"), lifecycles["undisturbed"].objects
    assert len(made) == 7
    for name, lifecycle in lifecycles.items():
        assert lifecycle.objects == objects, name
        assert writes.jobs_of(name) == made, name
    assert set(requests.injected) == set(REQUESTS)
    assert min(requests.injected.values()) >= 3
    assert len(requests.waits) >= 2
    assert min(requests.waits) >= RETRY_AFTER
    assert sum(cuts) > 20

    assert outage.expired == expected
    after = outage.objects
    assert after.pop("deleted") == {}
    for name, found in after.items():
        assert found == after["prepare"], name
        created = writes.jobs_of(f"outage-{name}")
        assert sorted(created.values()) == [1, 1, 1], (name, created)


def _in_outage(outage: Outage, pod: dict[str, Any]) -> dict[str, Any] | None:
    return outage.pod_status(pod) if pod["metadata"]["namespace"].startswith("outage-") else None


PRELUDE = "from finetune_operator import delays; delays.RESYNC = 10.0"
"""Shortens the interval between resyncs."""
