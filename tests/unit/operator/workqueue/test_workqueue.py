"""The guarantees of the work queue for any order of calls, and its behavior on an event loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from finetune_operator.telemetry.metrics import REGISTRY
from finetune_operator.workqueue.fair_queue import HEAD_START_SECONDS, Priority
from finetune_operator.workqueue.workqueue import WorkQueue

Key = tuple[str, str]
KEYS = st.tuples(st.sampled_from("xy"), st.sampled_from("abc"))
BASE, CAP = 0.005, 60.0
LIMIT = 2
A, B = ("x", "a"), ("x", "b")


@dataclass
class FakeTimer:
    due: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeTime:
    now: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    def advance_to(self, time: float) -> None:
        while True:
            due = [timer for timer in self.timers if timer.due <= time and not timer.cancelled]
            if not due:
                break
            first = min(due, key=lambda timer: timer.due)
            self.timers.remove(first)
            self.now = max(self.now, first.due)
            first.callback()
        self.now = time


class Model(RuleBasedStateMachine):
    """Compares the queue with a model of its guarantees."""

    def __init__(self) -> None:
        super().__init__()
        self.time = FakeTime()
        self.queue: WorkQueue[Key] = WorkQueue(
            "test",
            base=BASE,
            cap=CAP,
            namespace_limit=LIMIT,
            clock=lambda: self.time.now,
            call_later=self.time.call_later,
        )
        self.waiting: list[Key] = []
        self.turns: list[str] = []
        self.active: set[Key] = set()
        self.again: set[Key] = set()
        self.due: dict[Key, float] = {}
        self.failures: dict[Key, int] = {}

    def _added(self, key: Key) -> None:
        self.due.pop(key, None)
        if key in self.active:
            self.again.add(key)
        elif key not in self.waiting:
            self.waiting.append(key)
            if key[0] not in self.turns:
                self.turns.append(key[0])

    def _delayed(self, key: Key, seconds: float) -> None:
        if key in self.waiting or key in self.again:
            return
        due = self.time.now + seconds
        if due < self.due.get(key, float("inf")):
            # Of two keys that are due at the same time, the one that was delayed first comes first.
            self.due.pop(key, None)
            self.due[key] = due

    @rule(key=KEYS)
    def add(self, key: Key) -> None:
        self.queue.add(key)
        self._added(key)

    @rule(key=KEYS, seconds=st.floats(0.001, 100))
    def add_after(self, key: Key, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        self._delayed(key, seconds)

    @rule(key=KEYS)
    def retry(self, key: Key) -> None:
        failures = self.failures.get(key, 0)
        expected = min(CAP, BASE * 2**failures)
        assert self.queue.retry(key) == expected
        self.failures[key] = failures + 1
        self._delayed(key, expected)

    @rule(key=KEYS)
    def forget(self, key: Key) -> None:
        self.queue.forget(key)
        self.failures.pop(key, None)

    @rule()
    def take(self) -> None:
        taken = self.queue.pop()
        assert taken == self._expected()
        if taken is not None:
            namespace = taken[0]
            self.waiting.remove(taken)
            self.turns.remove(namespace)
            if any(key[0] == namespace for key in self.waiting):
                self.turns.append(namespace)
            assert taken not in self.active
            self.active.add(taken)

    def _expected(self) -> Key | None:
        """Return the first key of the first namespace in turn that is below the limit."""
        for namespace in self.turns:
            if sum(key[0] == namespace for key in self.active) < LIMIT:
                return next(key for key in self.waiting if key[0] == namespace)
        return None

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.active)))
        self.queue.done(key)
        self.active.discard(key)
        if key in self.again:
            self.again.discard(key)
            self._added(key)

    @rule(seconds=st.floats(0.001, 100))
    def wait(self, seconds: float) -> None:
        then = self.time.now + seconds
        self.time.advance_to(then)
        for key, due in sorted(self.due.items(), key=lambda item: item[1]):
            if due <= then:
                self._added(key)

    @invariant()
    def longest_is_zero_without_active_keys(self) -> None:
        assert (self.queue.longest() > 0) <= bool(self.active)


TestWorkQueue = Model.TestCase
TestWorkQueue.settings = settings(max_examples=200, stateful_step_count=40)


async def test_add_wakes_a_waiting_worker() -> None:
    queue: WorkQueue[Key] = WorkQueue("test")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    assert await asyncio.wait_for(waiting, 1) == A


async def test_a_cancelled_worker_passes_its_wakeup_on() -> None:
    queue: WorkQueue[Key] = WorkQueue("test")
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add(A)
    first.cancel()
    assert await asyncio.wait_for(second, 1) == A
    assert first.cancelled()


async def test_a_key_is_done_after_an_error() -> None:
    queue: WorkQueue[Key] = WorkQueue("test")
    queue.add(A)
    try:
        async with queue.take() as key:
            queue.add(key)
            raise RuntimeError
    except RuntimeError:
        pass
    assert queue.pop() == A


async def test_a_delayed_key_is_queued_on_a_real_event_loop() -> None:
    queue: WorkQueue[Key] = WorkQueue("test")
    queue.add_after(A, 0.01)
    assert queue.pop() is None
    assert await asyncio.wait_for(queue.get(), 1) == A


def test_the_backoff_is_capped() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", cap=60, call_later=time.call_later)
    assert [queue.retry(A) for _ in range(5000)][-1] == 60


def test_the_backoff_starts_at_5_ms_and_ends_at_a_minute() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", call_later=time.call_later)
    delays = [queue.retry(A) for _ in range(20)]
    assert delays[:3] == [0.005, 0.01, 0.02]
    assert delays[13:16] == [40.96, 60.0, 60.0]
    queue.forget(A)
    assert queue.retry(A) == 0.005
    assert queue.retry(B, 90.0) == 90.0, "the server requests more than the cap"


def test_add_does_not_shorten_a_delay_that_the_server_requested() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now, call_later=time.call_later)
    queue.add(A)
    queue.pop()
    queue.add(A)
    assert queue.retry(A, 7) == 7
    queue.done(A)
    queue.add(A)
    queue.add_after(A, 1)
    queue.add(B)
    assert (queue.pop(), queue.pop()) == (B, None)
    time.advance_to(6.9)
    queue.add(A)
    assert queue.pop() is None
    time.advance_to(7.1)
    assert (queue.pop(), queue.pop()) == (A, None)
    queue.done(A)
    queue.add(A)
    assert queue.pop() == A


def test_a_namespace_with_many_keys_delays_another_by_one_key() -> None:
    queue: WorkQueue[Key] = WorkQueue("test")
    for number in range(5000):
        queue.add(("x", str(number)))
    queue.pop()
    queue.add(("y", "new"))
    assert [queue.pop(), queue.pop()] == [("x", "1"), ("y", "new")]


async def test_a_key_of_a_namespace_at_its_limit_is_processed_after_another_is_done() -> None:
    queue: WorkQueue[Key] = WorkQueue("test", namespace_limit=1)
    queue.add(A)
    assert queue.pop() == A
    waiting = asyncio.create_task(queue.get())
    queue.add(B)
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(A)
    assert await asyncio.wait_for(waiting, 1) == B


async def test_workers_process_all_keys_of_namespaces_that_are_at_their_limit() -> None:
    queue: WorkQueue[Key] = WorkQueue("test", namespace_limit=1)
    keys = [(namespace, str(number)) for namespace in "xyz" for number in range(5)]
    processed: list[Key] = []
    all_processed = asyncio.Event()

    async def work() -> None:
        while True:
            async with queue.take() as key:
                await asyncio.sleep(0)
                processed.append(key)
                if len(processed) == len(keys):
                    all_processed.set()

    for key in keys:
        queue.add(key)
    workers = [asyncio.create_task(work()) for _ in range(8)]
    await asyncio.wait_for(all_processed.wait(), 30)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(processed) == sorted(keys)


def in_order(queue: WorkQueue[Key]) -> list[Key]:
    """Return all queued keys in the order in which they are processed."""
    found = []
    while (key := queue.pop()) is not None:
        found.append(key)
    return found


def test_urgent_keys_of_a_namespace_come_first_until_others_have_waited_longer() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now)
    queue.add(("x", "poll"), Priority.POLL)
    queue.add(("x", "event"), Priority.EVENT)
    queue.add(("x", "new"), Priority.NEW)
    assert in_order(queue) == [("x", "new"), ("x", "event"), ("x", "poll")]
    queue = WorkQueue("test", clock=lambda: time.now)
    queue.add(A, Priority.POLL)
    time.now += HEAD_START_SECONDS[Priority.POLL] + 1
    queue.add(B, Priority.NEW)
    assert in_order(queue) == [A, B]


def test_a_change_raises_the_priority_of_a_poll_that_is_queued_or_being_added() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now)
    queue.add(A, Priority.POLL)
    queue.add(B, Priority.EVENT)
    queue.add_after(A, 0.1, Priority.NEW)
    assert in_order(queue) == [A, B]
    queue.done(A)
    queue.done(B)
    queue.add(A)
    assert queue.pop() == A
    queue.add(A, Priority.POLL)
    queue.add_after(A, 0.1, Priority.NEW)
    queue.done(A)
    queue.add(B, Priority.EVENT)
    assert in_order(queue) == [A, B]


@pytest.mark.parametrize(("priority", "seconds"), [(Priority.EVENT, 2.0), (Priority.POLL, 60.0)])
def test_a_key_is_passed_only_by_keys_that_were_queued_within_its_head_start(
    priority: Priority, seconds: float
) -> None:
    def order(later: float) -> list[Key]:
        time = FakeTime()
        queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now)
        queue.add(A, priority)
        time.now += later
        queue.add(B, Priority.NEW)
        return in_order(queue)

    assert order(seconds) == [A, B]
    assert order(seconds - 0.1) == [B, A]


def test_the_longest_processing_and_the_number_of_keys_are_reported() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("depth", clock=lambda: time.now)
    labels = {"name": "depth", "controller": "depth"}

    def value(metric: str) -> float | None:
        return REGISTRY.get_sample_value(f"workqueue_{metric}", labels)

    for key in (A, B, A):
        queue.add(key)
    assert (value("depth"), value("adds_total"), queue.longest()) == (2, 2, 0.0)
    time.now = 3.0
    assert queue.pop() == A
    assert value("queue_duration_seconds_sum") == 3.0
    time.now = 4.0
    assert queue.pop() == B
    time.now = 9.0
    assert (value("depth"), queue.longest()) == (0, 6.0)
    assert value("unfinished_work_seconds") == 11.0
    assert value("longest_running_processor_seconds") == 6.0
    queue.done(A)
    assert (value("work_duration_seconds_sum"), queue.longest()) == (6.0, 5.0)


@pytest.mark.parametrize("first", [Priority.EVENT, Priority.POLL])
def test_of_several_delays_the_earliest_and_the_highest_priority_count(first: Priority) -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now, call_later=time.call_later)
    second = Priority.POLL if first == Priority.EVENT else Priority.EVENT
    queue.add_after(A, 5, first)
    queue.add_after(A, 9, second)
    queue.add_after(B, 5, Priority.POLL)
    time.advance_to(5)
    queue.add(B, Priority.POLL)
    assert [queue.pop(), queue.pop()] == [A, B]
    queue.done(A)
    queue.add_after(A, 9, first)
    queue.add_after(A, 5, second)
    time.advance_to(9)
    assert queue.pop() is None
    time.advance_to(10)
    queue.done(B)
    queue.add(B, Priority.POLL)
    assert [queue.pop(), queue.pop()] == [A, B]


def test_a_cleared_queue_forgets_queued_and_delayed_keys() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now, call_later=time.call_later)
    queue.add(A)
    assert queue.pop() == A
    queue.add(A)
    queue.add(B)
    queue.retry(("x", "c"), 7)
    queue.clear()
    queue.done(A)
    time.advance_to(100)
    assert in_order(queue) == []
    queue.add(("x", "c"))
    queue.add(B)
    assert in_order(queue) == [("x", "c"), B]


def test_a_queued_key_can_become_more_urgent_and_not_less() -> None:
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: 0.0)
    queue.add(A, Priority.POLL)
    queue.add(B, Priority.EVENT)
    queue.add(A, Priority.NEW)
    queue.add(A, Priority.POLL)
    assert in_order(queue) == [A, B]


def test_a_key_that_is_added_while_it_is_processed_keeps_the_most_urgent_reason() -> None:
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: 0.0)
    queue.add(A)
    assert queue.pop() == A
    queue.add(A, Priority.NEW)
    queue.add(A, Priority.POLL)
    queue.add(B, Priority.EVENT)
    queue.done(A)
    assert in_order(queue) == [A, B]


STEPS = st.lists(
    st.tuples(KEYS, st.sampled_from(Priority), st.sampled_from([0.0, 0.1, 5.0])), max_size=60
)


@given(steps=STEPS)
def test_no_key_waits_longer_than_its_head_start_and_the_keys_before_it(
    steps: list[tuple[Key, Priority, float]],
) -> None:
    """A key is passed only by keys of its namespace that were queued within its head start."""
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue("test", clock=lambda: time.now)
    due: dict[Key, float] = {}
    for key, priority, seconds in steps:
        time.now += seconds
        queue.add(key, priority)
        latest = time.now + HEAD_START_SECONDS[priority]
        due[key] = min(latest, due.get(key, latest))
        if seconds == 0.1:
            taken = queue.pop()
            assert taken is not None
            assert due[taken] == min(each for key, each in due.items() if key[0] == taken[0])
            del due[taken]
            queue.done(taken)
    assert sorted(in_order(queue)) == sorted(due)


@given(pauses=st.lists(st.sampled_from([0.0, 0.01, 0.3, 2.0]), max_size=300))
def test_an_endless_loop_of_edits_is_processed_once_per_interval_after_a_burst(
    pauses: list[float],
) -> None:
    time, processed = FakeTime(), 0
    queue: WorkQueue[Key] = WorkQueue(
        "test", interval=1.0, burst=5, clock=lambda: time.now, call_later=time.call_later
    )
    for pause in pauses:
        time.advance_to(time.now + pause)
        queue.add(A)
        if queue.pop() is not None:
            processed += 1
            queue.done(A)
        assert processed <= 5 + time.now
    time.advance_to(time.now + 1.001)
    pending = queue.pop()
    assert (pending is not None) or processed > 0 or not pauses
    time.advance_to(time.now + 1000)
    queue.add(B)
    queue.pop()
    assert list(queue._rate._arrivals) == [B], "no memory of a key that is far from its limit"


def test_a_limited_key_is_processed_after_its_delay() -> None:
    time = FakeTime()
    queue: WorkQueue[Key] = WorkQueue(
        "test", interval=1.0, burst=1, clock=lambda: time.now, call_later=time.call_later
    )
    for _ in range(3):
        queue.add(A)
    assert in_order(queue) == [A]
    queue.add(A)
    queue.done(A)
    assert queue.pop() is None
    time.advance_to(1.001)
    assert queue.pop() == A
