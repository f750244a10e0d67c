"""The events that wait for the sink: order, retries, bounds and failovers."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fakes import virtual_time
from tests.fakes.apiserver import CONFIG

from finetune_operator.notifications import outbox
from finetune_operator.notifications.events import CloudEvent, events
from finetune_operator.notifications.outbox import Outbox
from finetune_operator.notifications.sink import Rejected, Unavailable
from finetune_operator.objects.conditions import timestamp
from finetune_operator.telemetry import metrics
from finetune_operator.types import Key, Plan, Snapshot

START = datetime(2030, 1, 1, tzinfo=UTC)


def clock() -> datetime:
    return START + timedelta(seconds=virtual_time.now())


class World:
    """Jobs, a sink that can be down, and the outbox of the leader."""

    def __init__(self) -> None:
        self.jobs: dict[Key, dict[str, Any]] = {}
        self.lease = ""
        self.sent: list[str] = []
        self.error: Exception | None = None
        self.attempts: list[float] = []
        self.lead()

    def lead(self) -> None:
        """Another replica becomes the leader."""
        inherited = self.lease
        self.outbox = Outbox(self.send, lambda: inherited, lambda: list(self.jobs), clock=clock)
        self.task = asyncio.create_task(self.outbox.run())

    async def fail_over(self, lease: str | None = None) -> None:
        """End the leader; lease: its note in the Lease, if the last one was not written."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.lease = self.outbox.note() if lease is None else lease
        self.lead()

    async def send(self, event: CloudEvent) -> None:
        self.attempts.append(virtual_time.now())
        await asyncio.sleep(0.01)
        if self.error is not None:
            raise self.error
        self.sent.append(event.id)

    def refuse(self, name: str) -> None:
        """Refuse the events of a job, and accept all others."""
        accept = self.send

        async def send(event: CloudEvent) -> None:
            if event.subject == name:
                self.attempts.append(virtual_time.now())
                raise Unavailable("HTTP 403", answered=True)
            await accept(event)

        self.outbox._send = send

    def job(self, name: str) -> dict[str, Any]:
        metadata = {"namespace": "a", "name": name, "uid": f"uid-{name}"}
        return self.jobs.setdefault(
            ("a", name), {"kind": "FineTuneJob", "metadata": metadata, "spec": {}, "status": {}}
        )

    def reconcile(self, name: str, *true: str, crash: bool = False) -> None:
        """Write a status in which some conditions are True, and observe it."""
        job = self.job(name)
        before = {each["type"]: each for each in job["status"].get("conditions", ())}
        conditions = []
        for type_ in ("Ready", "Succeeded", "Finished", "Stalled", "Suspended"):
            status = "True" if type_ in true else "False"
            old = before.get(type_, {})
            same = old.get("status") == status
            at = old["lastTransitionTime"] if same else timestamp(clock())
            conditions.append(
                {"type": type_, "status": status, "reason": "R", "lastTransitionTime": at}
            )
        status_ = {"revision": "r1", "conditions": conditions}
        snapshot = Snapshot(settings=CONFIG, job=dict(job))
        job["status"] = status_
        if not crash:
            self.outbox.observed(("a", name), snapshot, status_)

    def observe_all(self) -> None:
        """Reconcile all jobs without a change, as a new leader does."""
        for key, job in self.jobs.items():
            self.outbox.observed(key, Snapshot(settings=CONFIG, job=job), job["status"])

    def shown(self) -> set[str]:
        return {event.id for job in self.jobs.values() for event in events(job, job["status"])}

    def names(self) -> list[str]:
        return ["/".join(each.split("/")[:2]).removeprefix("uid-") for each in self.sent]


Test = Callable[[World], Coroutine[Any, Any, None]]


def story(test: Test) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        async def main() -> None:
            world = World()
            try:
                await test(world)
            finally:
                world.task.cancel()
                await asyncio.gather(world.task, return_exceptions=True)

        virtual_time.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@story
async def test_a_transition_is_sent_once(world: World) -> None:
    world.reconcile("one")
    world.reconcile("one", "Succeeded")
    world.reconcile("one", "Succeeded")
    await asyncio.sleep(1)
    assert world.names() == ["one/succeeded"]
    world.reconcile("one", "Succeeded", "Ready", "Finished")
    world.reconcile("two", "Stalled", "Finished")
    await asyncio.sleep(1)
    assert world.names() == ["one/succeeded", "one/ready", "two/failed"]


@story
async def test_a_job_that_is_created_and_fails_in_one_reconcile_is_reported(world: World) -> None:
    world.reconcile("one", "Stalled", "Finished")
    await asyncio.sleep(1)
    assert world.names() == ["one/failed"]


@story
async def test_the_past_is_not_reported_when_the_sink_is_configured(world: World) -> None:
    world.reconcile("old", "Succeeded", "Ready", crash=True)
    await asyncio.sleep(3600)
    await world.fail_over("")
    world.observe_all()
    await asyncio.sleep(1)
    assert world.sent == []
    world.reconcile("old", "Succeeded", "Stalled")
    await asyncio.sleep(1)
    assert world.names() == ["old/stalled"]


@story
async def test_an_unreachable_sink_gets_the_events_later_in_their_order(world: World) -> None:
    world.error = Unavailable("HTTP 503")
    world.reconcile("one", "Succeeded")
    world.reconcile("two", "Stalled")
    await asyncio.sleep(3600)
    gaps = [later - at for at, later in zip(world.attempts, world.attempts[1:], strict=False)]
    assert max(gaps) <= outbox.BACKOFF_CAP + 1
    assert min(gaps[-3:]) >= outbox.BACKOFF_CAP / 2
    assert len(world.attempts) < 40
    world.error = None
    await asyncio.sleep(outbox.BACKOFF_CAP + 1)
    assert world.names() == ["one/succeeded", "two/stalled"]


@story
async def test_the_sink_can_ask_for_a_delay(world: World) -> None:
    world.error = Unavailable("HTTP 429", retry_after=1000)
    world.reconcile("one", "Succeeded")
    await asyncio.sleep(999)
    assert len(world.attempts) == 1
    world.error = None
    await asyncio.sleep(2)
    assert world.names() == ["one/succeeded"]


@story
async def test_a_rejected_event_does_not_block_the_others(world: World) -> None:
    world.error = Rejected("HTTP 400")
    world.reconcile("one", "Succeeded")
    await asyncio.sleep(1)
    world.error = None
    world.reconcile("two", "Succeeded")
    await asyncio.sleep(1)
    assert world.names() == ["two/succeeded"]


@story
async def test_an_event_that_the_sink_always_refuses_blocks_the_others_only_for_a_while(
    world: World,
) -> None:
    world.refuse("bad")
    world.reconcile("bad", "Succeeded")
    world.reconcile("one", "Succeeded")
    world.reconcile("two", "Succeeded")
    await asyncio.sleep(3600)
    assert world.names() == ["one/succeeded", "two/succeeded"]
    world.attempts.clear()
    world.reconcile("three", "Succeeded")
    await asyncio.sleep(2 * outbox.BACKOFF_CAP)
    assert world.names()[2:] == ["three/succeeded"]
    assert len(world.attempts) < 15, "its own retries stay rare"


def test_an_event_is_dropped_after_a_day() -> None:
    @story
    async def run(world: World) -> None:
        begin = clock()
        world.refuse("bad")
        world.reconcile("bad", "Succeeded")
        await asyncio.sleep(23 * 3600)
        assert world.outbox.note() <= timestamp(begin), "it is pending"
        await asyncio.sleep(2 * 3600)
        assert not world.outbox._pending
        assert not world.outbox._refusals
        assert world.outbox.note() > timestamp(begin + timedelta(hours=24))
        attempts = len(world.attempts)
        world.reconcile("bad", "Succeeded")
        await asyncio.sleep(3600)
        assert len(world.attempts) == attempts, "it is not added again"

    before = metrics.NOTIFICATIONS.labels("dropped")._value.get()
    run()
    assert metrics.NOTIFICATIONS.labels("dropped")._value.get() == before + 1


def test_the_number_of_pending_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_PENDING", 3)

    @story
    async def run(world: World) -> None:
        world.error = Unavailable("HTTP 503")
        for number in range(5):
            world.reconcile(f"job{number}", "Succeeded")
        world.error = None
        await asyncio.sleep(1)
        assert world.names() == ["job2/succeeded", "job3/succeeded", "job4/succeeded"]

    before = metrics.NOTIFICATIONS.labels("dropped")._value.get()
    run()
    assert metrics.NOTIFICATIONS.labels("dropped")._value.get() == before + 2


@story
async def test_the_events_of_a_deleted_job_are_sent(world: World) -> None:
    world.reconcile("one", "Succeeded")
    world.outbox.forget(("a", "one"))
    await asyncio.sleep(1)
    assert world.names() == ["one/succeeded"]


@story
async def test_the_next_leader_sends_the_rest_and_little_again(world: World) -> None:
    world.reconcile("one", "Succeeded")
    await asyncio.sleep(1000)
    world.error = Unavailable("HTTP 503")
    world.reconcile("two", "Succeeded")
    await asyncio.sleep(1000)
    world.error = None
    await world.fail_over()
    world.observe_all()
    await asyncio.sleep(1)
    assert world.names() == ["one/succeeded", "two/succeeded"]


@story
async def test_an_event_of_a_reconcile_that_did_not_end_is_sent(world: World) -> None:
    """The old leader wrote the status and died."""
    world.reconcile("one")
    world.reconcile("other")
    await asyncio.sleep(100)
    world.reconcile("one", "Succeeded", crash=True)
    world.reconcile("other", "Succeeded")
    await asyncio.sleep(5)
    await world.fail_over()
    world.observe_all()
    await asyncio.sleep(1)
    assert set(world.names()) == {"one/succeeded", "other/succeeded"}


@story
async def test_a_failed_reconcile_delays_its_event_only(world: World) -> None:
    """The status was written, but an action failed; the next reconcile succeeds."""
    world.reconcile("one")
    world.reconcile("one", "Succeeded", crash=True)
    world.observe_all()
    await asyncio.sleep(1)
    assert world.names() == ["one/succeeded"]


@story
async def test_the_note_waits_for_jobs_that_were_not_observed(world: World) -> None:
    world.reconcile("one")
    world.reconcile("two")
    await asyncio.sleep(100)
    world.reconcile("one", "Succeeded", crash=True)
    await world.fail_over()
    world.reconcile("two", "Succeeded")
    await asyncio.sleep(1000)
    world.reconcile("two", "Succeeded", "Ready")
    await asyncio.sleep(100)
    await world.fail_over()
    world.observe_all()
    await asyncio.sleep(1)
    assert set(world.names()) == {"one/succeeded", "two/succeeded", "two/ready"}


@story
async def test_an_event_is_sent_although_its_reconcile_fails_again_and_again(world: World) -> None:
    """A write of a child is rejected; the status that reports it was written."""
    job = world.job("one")
    world.reconcile("one", "Stalled", crash=True)
    snapshot = Snapshot(settings=CONFIG, job={**job, "status": {}})
    world.outbox.written(snapshot, Plan(status=job["status"]))
    await asyncio.sleep(1)
    assert world.names() == ["one/stalled"]
    world.observe_all()
    await asyncio.sleep(1)
    assert world.names() == ["one/stalled"]


@story
async def test_the_note_of_the_last_leader_stays_until_the_next_one_has_begun(
    world: World,
) -> None:
    inherited = ["2029-12-31T00:00:00Z"]
    leader = Outbox(world.send, lambda: inherited[0], list, clock=clock)
    assert leader.note() == inherited[0], "it is written before the first reconcile"
    running = asyncio.create_task(leader.run())
    await asyncio.sleep(1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert leader.note() == timestamp(clock() - outbox.SLACK), "at the release of the Lease"
    inherited[0] = "2029-12-31T23:00:00Z"
    assert leader.note() == inherited[0], "another replica was the leader meanwhile"


@story
async def test_failovers_without_events_repeat_nothing(world: World) -> None:
    world.reconcile("one", "Succeeded")
    await asyncio.sleep(10)
    world.reconcile("later", "Succeeded")
    await asyncio.sleep(10)
    for _ in range(5):
        await world.fail_over()
        world.observe_all()
        await asyncio.sleep(1000)
    assert max(Counter(world.sent).values()) <= 2, "again, at the first failover alone"


@pytest.mark.parametrize("seed", range(60))
def test_random_histories_lose_no_event_and_repeat_each_once_per_failover(seed: int) -> None:
    chance = random.Random(seed)

    @story
    async def run(world: World) -> None:
        failovers, how = 0, ""
        await asyncio.sleep(0.001)
        noted = world.outbox.note()
        for name in ("one", "two", "three"):
            world.reconcile(name)
        for _ in range(60):
            match chance.choice(("wait", "wait", "change", "change", "crash", "sink", "fail over")):
                case "wait":
                    await asyncio.sleep(chance.choice((0.001, 1, 5, 400)))
                    noted = world.outbox.note()
                case "change" | "crash" as how:
                    true = chance.sample(["Ready", "Succeeded", "Stalled", "Finished"], k=2)
                    name = chance.choice(("one", "two", "three"))
                    world.reconcile(name, *true, crash=how == "crash")
                case "sink":
                    world.error = None if world.error else Unavailable("HTTP 503")
                case "fail over":
                    how = "crash"
            if how == "crash":
                # The Lease may lack the last note.
                failovers += 1
                await world.fail_over(chance.choice((noted, None)))
                world.observe_all()
                how = ""
        world.error = None
        await asyncio.sleep(1000)
        assert world.shown() <= set(world.sent)
        assert max(Counter(world.sent).values(), default=0) <= 1 + failovers

    run()
