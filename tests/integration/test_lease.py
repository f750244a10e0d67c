"""Leader election of two replicas: fail-over, and writes of the old leader."""

import json
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.relay import HOLD, PASS, Call, Outcome, Relay, relay
from tests.support.api_server.controlplane import PATIENCE_SECONDS, ControlPlane, wait_until
from tests.support.api_server.namespace import Namespace
from tests.support.api_server.operatorprocess import CONFIG, OperatorProcess, operator
from tests.support.busy_machine import seconds_without_core
from tests.support.variants import variants

from finetune_operator.leader_election import DURATION_SECONDS, RENEW_SECONDS

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


class Pair:
    """Two replicas with one Lease, each behind its own relay; the first is the leader."""

    def __init__(self, plane: ControlPlane, folder: Path, stack: ExitStack) -> None:
        self.plane, self.name = plane, f"pair-{uuid.uuid4().hex[:8]}"
        self.relays: dict[str, Relay] = {}
        self.operators: dict[str, OperatorProcess] = {}
        for pod in ("first", "second"):
            own = folder / pod
            own.mkdir()
            self.relays[pod] = stack.enter_context(relay(plane, own))
            self.operators[pod] = stack.enter_context(
                operator(
                    plane,
                    own,
                    {**CONFIG, "leaseName": self.name},
                    kubeconfig=self.relays[pod].kubeconfig,
                    pod=pod,
                )
            )
            wait_until("the first replica is the leader", lambda: self.holder() == "first")

    def lease(self) -> dict[str, Any]:
        return self.plane.get(f"{LEASES}/{self.name}")

    def holder(self) -> str:
        found = self.plane.get(LEASES)["items"]
        for each in found:
            if each["metadata"]["name"] == self.name:
                return str(each["spec"]["holderIdentity"])
        return ""

    def is_leader(self, pod: str) -> bool:
        return self.operators[pod].metric("leader_election_master_status", name=self.name) == 1

    def wait_for_takeover(self) -> None:
        """Wait until the second replica holds the Lease."""
        wait_until("the second replica is the leader", lambda: self.holder() == "second")

    def written(self, pod: str) -> list[tuple[float, str]]:
        """Return time and holder of each write of the Lease by a replica."""
        return [
            (call.at, json.loads(call.body)["spec"]["holderIdentity"])
            for call in self.relays[pod].calls
            if call.writes and "/leases" in call.path
        ]


@pytest.fixture
def pair(control_plane: ControlPlane, tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(control_plane, tmp_path, stack)


def test_a_standby_watches_and_writes_nothing(pair: Pair, place: Namespace) -> None:
    place.submit()
    place.wait_until_preparing()
    pair.operators["first"].settled()
    assert (pair.is_leader("first"), pair.is_leader("second")) == (True, False)
    assert pair.operators["second"].get("/healthz") == (200, "ok")
    assert pair.operators["second"].get("/readyz") == (200, "ok")
    assert pair.operators["second"].metric("controller_runtime_reconcile_total") == 0
    assert pair.operators["second"].metric("workqueue_depth") == 0
    # A watch may be between its end and its restart.
    wait_until("all watches are open", lambda: pair.relays["second"].watches == 13)
    assert not [call for call in pair.relays["second"].calls if call.writes]


def test_after_sigterm_the_standby_takes_over_before_the_lease_expires(
    pair: Pair, place: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    code, _ = pair.operators["first"].stop()
    place.submit()
    place.wait_until_preparing()
    seconds = time.monotonic() - began
    assert (code, pair.holder()) == (0, "second")
    with capsys.disabled():
        print(f"\n    from SIGTERM until the standby has created a Job: {seconds:.1f} s")
    # A standby that does not notice the release waits for the expiration after the last renewal.
    renewed = max(at for at, holder in pair.written("first") if holder == "first")
    taken, _ = pair.written("second")[0]
    assert taken - renewed < DURATION_SECONDS


def test_after_sigkill_the_standby_takes_over_within_twenty_seconds(
    pair: Pair, place: Namespace
) -> None:
    pair.operators["first"].process.send_signal(signal.SIGKILL)
    began = time.monotonic()
    place.submit()
    place.wait_until_preparing()
    taken, _ = pair.written("second")[0]
    assert 10 < taken - began < 20
    assert pair.lease()["spec"]["leaseTransitions"] == 2


def test_a_restarted_container_acquires_its_own_lease_at_once(
    pair: Pair, place: Namespace, control_plane: ControlPlane, tmp_path: Path
) -> None:
    """Without a standby, which would be faster than a restart on a busy machine."""
    for pod in ("second", "first"):
        pair.operators[pod].process.send_signal(signal.SIGKILL)
    config = {**CONFIG, "leaseName": pair.name}
    with (
        relay(control_plane, tmp_path) as between,
        operator(control_plane, tmp_path, config, kubeconfig=between.kubeconfig, pod="first"),
    ):
        place.submit()
        place.wait_until_preparing()
        assert pair.holder() == "first"
        assert pair.lease()["spec"]["leaseTransitions"] == 1
        calls = [call for call in between.calls if "/leases" in call.path]
    # A replica that waits for an expiration watches the Lease.
    first = next(number for number, call in enumerate(calls) if call.writes)
    assert [call.method for call in calls[:first]] == ["GET"]
    assert not any(call.watches for call in calls)
    assert calls[first].at - calls[0].at < DURATION_SECONDS - RENEW_SECONDS


def _state(place: Namespace) -> dict[str, str]:
    """Return the versions of all objects but events: the old leader may report what it planned."""
    return {key: each for key, each in place.versions().items() if not key.startswith("events/")}


@pytest.mark.parametrize(
    ("late", "method"),
    variants([("status", "PUT"), ("jobs", "POST"), ("jobs/", "DELETE")], kept=[("jobs", "POST")]),
    ids=str,
)
def test_a_delayed_write_of_the_old_leader_changes_nothing(
    pair: Pair, place: Namespace, late: str, method: str
) -> None:
    """The write arrives after the new leader has reconciled the job."""
    if method != "POST":
        place.submit()
        place.wait_until_preparing()
        pair.operators["first"].settled()
    pausing: list[Call] = []

    def decide(call: Call) -> Outcome:
        if call.method == method and late in call.path.removesuffix("/demo"):
            pausing.append(call)
        if pausing:
            slow.silence(True)
            return HOLD
        return PASS

    slow = pair.relays["first"]
    slow.decide = decide
    if method == "POST":
        place.submit()
    else:
        place.plane.merge(place.path("finetunejobs", "demo"), {"spec": {"suspend": True}})
    wait_until("the old leader has sent a write", lambda: bool(pausing))
    pair.wait_for_takeover()
    wait_until("the first replica is no longer the leader", lambda: not pair.is_leader("first"))
    wait_until(
        "it has forgotten all jobs", lambda: pair.operators["first"].metric("finetune_jobs") == 0
    )
    expected = "Preparing" if method == "POST" else "SuspendedByUser"
    wait_until("the second replica reconciles the job", lambda: place.reason() == expected)
    pair.operators["second"].settled()
    versions = _state(place)

    answers: list[int] = []
    slow.after = lambda call, status: answers.append(status) if call is pausing[0] else None
    slow.release()
    wait_until("the write arrives", lambda: bool(answers))
    assert answers[0] in (404, 409)
    pair.operators["second"].settled()
    assert _state(place) == versions
    # The old leader continues as a standby in the same process, and can lead again.
    assert pair.operators["first"].process.poll() is None
    pair.operators["second"].stop()
    place.submit("another")
    place.wait_until_preparing("another")
    assert pair.holder() == "first"


def test_no_write_is_sent_after_the_lease_expired(pair: Pair, place: Namespace) -> None:
    """Renewals hang, other requests succeed: only the expiration stops the writes."""
    sent: list[float] = []
    stalled, without_core = time.monotonic(), 0.0

    def decide(call: Call) -> Outcome:
        nonlocal without_core
        # A request arrives later by the time in which operator and relay have waited for a core.
        before, without_core = without_core, seconds_without_core("thread-self")
        without_core += seconds_without_core(pair.operators["first"].process.pid)
        if "/leases/" in call.path:
            return HOLD
        if call.writes:
            sent.append(call.at - stalled - (without_core - before))
        return PASS

    pair.relays["first"].decide = decide
    number = 0
    while pair.holder() == "first" or number < 3:
        number += 1
        place.submit(f"job-{number}", suspend=True)
        time.sleep(0.5)
        assert time.monotonic() - stalled < PATIENCE_SECONDS
    taken, _ = pair.written("second")[0]
    assert sent
    assert max(sent) < 10.5
    assert 13 < taken - stalled < 20
    lines = [json.loads(x) for x in pair.operators["first"].log.read_text().splitlines()]
    assert any(line["message"] == "no longer the leader" for line in lines)
    pair.relays["first"].release()
