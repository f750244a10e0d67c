"""Leader election in virtual time: when a Lease is taken, kept, lost and released."""

import asyncio
import itertools
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes import virtual_time
from tests.fakes.virtual_time import now

from finetune_operator.kube.client import Kube
from finetune_operator.kube.errors import Conflict, Transient
from finetune_operator.leader_election import (
    DURATION_SECONDS,
    HELD_SECONDS,
    RENEW_SECONDS,
    REQUEST_SECONDS,
    LeaderElector,
    boottime,
)
from finetune_operator.telemetry import metrics
from finetune_operator.types import Object

ROOT = Path(__file__).parents[3]
Fault = Callable[[str], Awaitable[None]]
"""Takes the verb of a request; can wait, and can raise an error."""


async def _answers(verb: str) -> None:
    """Answer immediately."""


class OneLease(Kube):
    """An API server that stores one Lease and sends every change to its watchers."""

    def __init__(self, holder: str | None = None, *, seconds: int = DURATION_SECONDS) -> None:
        self.before: Fault = _answers
        self.after: Fault = _answers
        self.requests: list[tuple[str, float]] = []
        self.lease: dict[str, Any] | None = None
        self.bodies: list[Object] = []
        self._versions = itertools.count(1)
        self._events: list[asyncio.Queue[dict[str, Any]]] = []
        if holder is not None:
            self.renew(holder, seconds=seconds)

    @property
    def spec(self) -> dict[str, Any]:
        assert self.lease is not None
        return dict(self.lease["spec"])

    def renew(self, holder: str, *, seconds: int = DURATION_SECONDS) -> None:
        """Write the Lease like another replica."""
        spec = {"holderIdentity": holder, "leaseDurationSeconds": seconds}
        self._store({**spec, "acquireTime": "then", "leaseTransitions": 4})

    def remove(self) -> None:
        """Delete the Lease like an administrator."""
        gone, self.lease = self.lease, None
        self._tell("DELETED", gone or {})

    def times(self, verb: str) -> list[float]:
        return [at for made, at in self.requests if made == verb]

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        assert (kind, namespace, name) == ("Lease", "ns", "lease")
        await self._request("get")
        return self.lease

    async def create(self, body: Object, *, fenced: bool = True) -> Object:
        assert not fenced, "the Lease has no owner"
        self.bodies.append(body)
        await self._request("create")
        if self.lease is not None:
            raise Conflict("409 already exists")
        stored = self._store(dict(body["spec"]))
        await self.after("create")
        return stored

    async def replace(self, body: Object, *, seconds: float) -> Object:
        assert seconds == REQUEST_SECONDS
        self.bodies.append(body)
        await self._request("replace")
        version = body["metadata"]["resourceVersion"]
        if self.lease is None or self.lease["metadata"]["resourceVersion"] != version:
            raise Conflict("409 not as observed")
        stored = self._store(dict(body["spec"]), body["metadata"].get("annotations"))
        await self.after("replace")
        return stored

    async def watch(
        self,
        kind: str,
        namespace: str,
        name: str = "",
        *,
        since: str,
        labels: str = "",
        metadata_only: bool = False,
    ) -> AsyncGenerator[Object, None]:
        assert (kind, namespace, name) == ("Lease", "ns", "lease")
        await self._request("watch")
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.append(events)
        while True:
            yield await events.get()

    async def _request(self, verb: str) -> None:
        self.requests.append((verb, now() if self._running() else 0.0))
        await self.before(verb)

    def _store(self, spec: dict[str, Any], annotations: dict[str, str] | None = None) -> Object:
        version = str(next(self._versions))
        metadata: dict[str, Any] = {
            "name": "lease",
            "namespace": "ns",
            "resourceVersion": version,
            **({"annotations": annotations} if annotations else {}),
        }
        self.lease = {"metadata": metadata, "spec": spec}
        self._tell("MODIFIED", self.lease)
        return self.lease

    def _tell(self, type_: str, lease: dict[str, Any]) -> None:
        for events in self._events:
            events.put_nowait({"type": type_, "object": lease})

    @staticmethod
    def _running() -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True


def elector(kube: OneLease, identity: str = "ours") -> LeaderElector:
    return LeaderElector(kube=kube, namespace="ns", name="lease", identity=identity, clock=now)


async def unavailable(verb: str) -> None:
    raise Transient("503 no server")


def test_a_missing_lease_is_created_at_once() -> None:
    async def story() -> None:
        kube = OneLease()
        leader, began = elector(kube), now()
        await leader.acquire()
        assert now() == began
        assert leader.remaining() == HELD_SECONDS
        assert kube.spec["holderIdentity"] == "ours"
        assert kube.spec["leaseDurationSeconds"] == DURATION_SECONDS
        assert kube.spec["leaseTransitions"] == 1

    virtual_time.run(story())


def test_lease_is_a_valid_object() -> None:
    async def story() -> None:
        kube = OneLease()
        await elector(kube).acquire()
        (body,) = kube.bodies
        assert body["apiVersion"] == "coordination.k8s.io/v1"
        assert (body["kind"], body["metadata"]) == ("Lease", {"name": "lease", "namespace": "ns"})
        times = {body["spec"].pop(name) for name in ("acquireTime", "renewTime")}
        assert body["spec"].keys() == {
            "holderIdentity",
            "leaseDurationSeconds",
            "leaseTransitions",
        }
        assert len(times) == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", times.pop())

    virtual_time.run(story())


def test_clock_of_the_leader_includes_the_time_in_which_the_machine_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert LeaderElector(kube=OneLease(), namespace="n", name="l", identity="i").clock is boottime


def test_page_about_the_reconcile_loop_names_the_times_of_the_lease() -> None:
    page = " ".join((ROOT / "docs/development/reconcile-loop.md").read_text().split())
    assert f"renews the Lease every {RENEW_SECONDS:.0f} s" in page
    assert f"for {HELD_SECONDS:.0f} s after it *sent*" in page
    assert f"takes the Lease {DURATION_SECONDS} s after it *observed*" in page
    # After one stalled request, there is time for another one.
    assert 2 * (RENEW_SECONDS + REQUEST_SECONDS) <= HELD_SECONDS


def test_changes_of_leadership_are_logged_and_measured(caplog: pytest.LogCaptureFixture) -> None:
    def leads() -> float:
        (found,) = (
            sample.value
            for metric in metrics.LEADER.collect()
            for sample in metric.samples
            if sample.labels == {"name": "lease"}
        )
        return found

    async def story() -> None:
        kube = OneLease()
        kube.before = unavailable
        leader = elector(kube)
        taking = asyncio.create_task(leader.acquire())
        await asyncio.sleep(RENEW_SECONDS)
        kube.before = _answers
        await taking
        assert leads() == 1
        kube.before = unavailable
        await leader.hold()
        assert leads() == 0
        kube.before = _answers
        await leader.acquire()
        kube.before = unavailable
        await leader.release()
        assert leads() == 0

    with caplog.at_level(logging.INFO, logger="finetune_operator.leader_election"):
        virtual_time.run(story())
    texts = [record.getMessage() for record in caplog.records]
    assert list(dict.fromkeys(texts)) == [
        "failed to read or acquire the Lease: 503 no server",
        "became the leader",
        "failed to renew the Lease: 503 no server",
        "no longer the leader",
        "failed to release the Lease: 503 no server",
    ]
    changes = [record for record in caplog.records if "leader" in record.getMessage()]
    assert [vars(record)["identity"] for record in changes] == ["ours"] * 3


@pytest.mark.parametrize("holder", ["", "ours"], ids=["released", "of-this-pod-before-a-restart"])
def test_a_free_lease_is_taken_at_once(holder: str) -> None:
    async def story() -> None:
        kube, began = OneLease(holder), now()
        await elector(kube).acquire()
        assert (now(), kube.spec["holderIdentity"]) == (began, "ours")

    virtual_time.run(story())


def test_a_lease_that_is_not_renewed_is_taken_after_its_duration() -> None:
    async def story() -> None:
        kube, began = OneLease("other"), now()
        await elector(kube).acquire()
        assert now() - began == pytest.approx(DURATION_SECONDS, abs=0.1)

    virtual_time.run(story())


def test_the_duration_is_the_one_that_the_holder_wrote() -> None:
    async def story() -> None:
        kube, began = OneLease("other", seconds=40), now()
        await elector(kube).acquire()
        assert now() - began == pytest.approx(40, abs=0.1)

    virtual_time.run(story())


def test_each_renewal_restarts_the_wait() -> None:
    async def story() -> None:
        kube, began = OneLease("other"), now()
        taking = asyncio.create_task(elector(kube).acquire())
        for _ in range(5):
            await asyncio.sleep(10)
            kube.renew("other")
        await taking
        assert now() - began == pytest.approx(50 + DURATION_SECONDS, abs=0.1)
        assert len(kube.times("watch")) <= 2, "one watch waits, it does not poll"

    virtual_time.run(story())


@pytest.mark.parametrize("how", ["released", "deleted"])
def test_a_lease_that_becomes_free_is_taken_without_waiting(how: str) -> None:
    async def story() -> None:
        kube, began = OneLease("other"), now()
        taking = asyncio.create_task(elector(kube).acquire())
        await asyncio.sleep(5)
        kube.renew("", seconds=1) if how == "released" else kube.remove()
        await taking
        assert now() - began == pytest.approx(5, abs=0.1)

    virtual_time.run(story())


def test_one_of_two_replicas_that_take_a_free_lease_becomes_leader() -> None:
    async def story() -> None:
        kube = OneLease("")
        electors = [elector(kube, "one"), elector(kube, "two")]
        tasks = [asyncio.create_task(each.acquire()) for each in electors]
        await asyncio.sleep(HELD_SECONDS / 2)
        assert sum(task.done() for task in tasks) == 1
        assert sum(each.remaining() > 0 for each in electors) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual_time.run(story())


def test_requests_to_an_unavailable_server_are_retried_after_a_pause() -> None:
    async def story() -> None:
        kube = OneLease()
        kube.before = unavailable
        taking = asyncio.create_task(elector(kube).acquire())
        await asyncio.sleep(60)
        assert 60 / RENEW_SECONDS <= len(kube.times("get")) <= 2 * 60 / RENEW_SECONDS + 1
        kube.before = _answers
        await taking

    virtual_time.run(story())


def test_the_lease_duration_starts_when_a_renewal_is_sent() -> None:
    async def story() -> None:
        kube = OneLease()

        async def slowly(verb: str) -> None:
            await asyncio.sleep(2.5)

        kube.after = slowly
        leader = elector(kube)
        await leader.acquire()
        assert leader.remaining() == pytest.approx(HELD_SECONDS - 2.5)

    virtual_time.run(story())


def test_renewals_keep_the_acquire_time() -> None:
    async def story() -> None:
        kube = OneLease("other", seconds=1)
        leader = elector(kube)
        await leader.acquire()
        first = kube.spec
        holding = asyncio.create_task(leader.hold())
        for _ in range(60):
            await asyncio.sleep(1)
            assert leader.remaining() >= HELD_SECONDS - RENEW_SECONDS - 0.1
        assert not holding.done()
        assert len(kube.times("replace")) == pytest.approx(60 / RENEW_SECONDS, abs=2)
        for field in ("acquireTime", "leaseTransitions", "holderIdentity"):
            assert kube.spec[field] == first[field]
        assert first["leaseTransitions"] == 5
        assert kube.spec["renewTime"] > first["renewTime"]
        holding.cancel()

    virtual_time.run(story())


def test_leadership_ends_when_renewals_fail_for_too_long() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        began, kube.before = now(), unavailable
        await leader.hold()
        assert now() - began == pytest.approx(HELD_SECONDS, abs=0.1)
        assert leader.remaining() == 0
        assert len(kube.times("replace")) <= HELD_SECONDS / RENEW_SECONDS + 1

    virtual_time.run(story())


def test_leadership_lasts_until_the_lease_expires_if_renewals_fail_slowly() -> None:
    async def story() -> None:
        async def slowly_unavailable(verb: str) -> None:
            await asyncio.sleep(1)
            raise Transient("503 no server")

        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        began, kube.before = now(), slowly_unavailable
        await leader.hold()
        assert now() - began == pytest.approx(HELD_SECONDS + 1, abs=0.1)

    virtual_time.run(story())


def test_leadership_ends_when_the_lease_is_deleted() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        began = now()
        kube.remove()
        await leader.hold()
        assert now() - began == pytest.approx(RENEW_SECONDS, abs=0.1)

    virtual_time.run(story())


def test_a_stream_that_ends_does_not_shorten_the_wait() -> None:
    class EndingStream(OneLease):
        async def watch(
            self, kind: str, namespace: str, name: str = "", *, since: str, **_: object
        ) -> AsyncGenerator[Object, None]:
            await asyncio.sleep(DURATION_SECONDS - 0.5)
            return
            yield {}

    async def story() -> None:
        kube, began = EndingStream("other"), now()
        await elector(kube).acquire()
        assert now() - began == pytest.approx(DURATION_SECONDS, abs=0.1)

    virtual_time.run(story())


def test_leadership_survives_a_short_outage() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        holding = asyncio.create_task(leader.hold())
        kube.before = unavailable
        await asyncio.sleep(HELD_SECONDS - RENEW_SECONDS)
        kube.before = _answers
        await asyncio.sleep(60)
        assert not holding.done()
        holding.cancel()

    virtual_time.run(story())


def test_leadership_ends_at_once_when_another_replica_has_the_lease() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        began = now()
        kube.renew("other")
        await leader.hold()
        assert now() - began == pytest.approx(RENEW_SECONDS, abs=0.1)
        assert leader.remaining() == 0
        assert kube.spec["holderIdentity"] == "other"

    virtual_time.run(story())


def test_a_renewal_whose_answer_was_lost_does_not_end_leadership() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        kube.after = unavailable
        holding = asyncio.create_task(leader.hold())
        await asyncio.sleep(RENEW_SECONDS * 1.5)
        kube.after = _answers
        await asyncio.sleep(60)
        assert not holding.done()
        assert leader.remaining() > 0
        holding.cancel()

    virtual_time.run(story())


def test_an_unexplained_conflict_does_not_shorten_the_lease() -> None:
    """The Lease was written, and the server does not report by which replica."""

    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        began = now()
        kube.renew("ours")

        async def no_reads(verb: str) -> None:
            if verb == "get":
                raise Transient("503 no server")

        kube.before = no_reads
        await leader.hold()
        assert now() - began == pytest.approx(HELD_SECONDS, abs=0.1)

    virtual_time.run(story())


def test_a_released_lease_is_free_for_the_next_replica() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        await leader.release()
        assert leader.remaining() == 0
        assert kube.spec["holderIdentity"] == ""
        assert kube.spec["leaseDurationSeconds"] == 1

    virtual_time.run(story())


def test_a_lease_is_released_until_it_expires() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        await asyncio.sleep(HELD_SECONDS - 0.5)
        await leader.release()
        assert kube.spec["holderIdentity"] == ""

    virtual_time.run(story())


def test_an_expired_lease_is_not_released() -> None:
    """Another replica can hold the Lease by then."""

    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        await asyncio.sleep(HELD_SECONDS)
        await leader.release()
        assert kube.times("replace") == []
        assert kube.spec["holderIdentity"] == "ours"

    virtual_time.run(story())


def test_a_release_that_fails_is_no_error() -> None:
    async def story() -> None:
        kube = OneLease()
        leader = elector(kube)
        await leader.acquire()
        kube.before = unavailable
        await leader.release()
        assert leader.remaining() == 0

    virtual_time.run(story())


@pytest.mark.parametrize("ends", ["release", "expiration"])
def test_the_lease_carries_a_note_to_the_next_leader(ends: str) -> None:
    async def story() -> None:
        kube = OneLease()
        first, second = elector(kube, "first"), elector(kube, "second")
        notes = ["one"]
        first.note = second.note = lambda: notes[-1]
        await first.acquire()
        assert first.inherited == ""
        renewing = asyncio.create_task(first.hold())
        await asyncio.sleep(1.5 * RENEW_SECONDS)
        renewing.cancel()
        if ends == "release":
            notes.append("two")
            await first.release()
        await second.acquire()
        assert second.inherited == notes[-1]
        third = elector(kube, "third")
        await second.release()
        await third.acquire()
        assert third.inherited == notes[-1]
        assert "annotations" not in (kube.lease or {})["metadata"], "nobody would update it"

    virtual_time.run(story())
