"""The guarantees of the work queue for any order of calls, and its behavior on an event loop."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from finetune_operator.controller.workqueue import WorkQueue

KEYS = st.sampled_from("abc")
BASE, CAP = 0.005, 60.0


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
        self.queue: WorkQueue[str] = WorkQueue(
            "test", base=BASE, cap=CAP, clock=lambda: self.time.now, call_later=self.time.call_later
        )
        self.waiting: list[str] = []
        self.active: set[str] = set()
        self.again: set[str] = set()
        self.due: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    def _added(self, key: str) -> None:
        self.due.pop(key, None)
        if key in self.active:
            self.again.add(key)
        elif key not in self.waiting:
            self.waiting.append(key)

    def _delayed(self, key: str, seconds: float) -> None:
        if key in self.waiting or key in self.again:
            return
        due = self.time.now + seconds
        if due < self.due.get(key, float("inf")):
            # Of two keys that are due at the same time, the one that was delayed first comes first.
            self.due.pop(key, None)
            self.due[key] = due

    @rule(key=KEYS)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self._added(key)

    @rule(key=KEYS, seconds=st.floats(0.001, 100))
    def add_after(self, key: str, seconds: float) -> None:
        self.queue.add_after(key, seconds)
        self._delayed(key, seconds)

    @rule(key=KEYS)
    def retry(self, key: str) -> None:
        failures = self.failures.get(key, 0)
        expected = min(CAP, BASE * 2**failures)
        assert self.queue.retry(key) == expected
        self.failures[key] = failures + 1
        self._delayed(key, expected)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.queue.forget(key)
        self.failures.pop(key, None)

    @rule()
    def take(self) -> None:
        taken = self.queue.pop()
        assert taken == (self.waiting.pop(0) if self.waiting else None)
        if taken is not None:
            assert taken not in self.active
            self.active.add(taken)

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
TestWorkQueue.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


async def test_add_wakes_a_waiting_worker() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(waiting, 1) == "a"


async def test_a_cancelled_worker_passes_its_wakeup_on() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "a"
    assert first.cancelled()


async def test_a_key_is_done_after_an_error() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    queue.add("a")
    try:
        async with queue.take() as key:
            queue.add(key)
            raise RuntimeError
    except RuntimeError:
        pass
    assert queue.pop() == "a"


async def test_a_delayed_key_is_queued_on_a_real_event_loop() -> None:
    queue: WorkQueue[str] = WorkQueue("test")
    queue.add_after("a", 0.01)
    assert queue.pop() is None
    assert await asyncio.wait_for(queue.get(), 1) == "a"


def test_the_backoff_is_capped() -> None:
    time = FakeTime()
    queue: WorkQueue[str] = WorkQueue("test", cap=60, call_later=time.call_later)
    assert [queue.retry("a") for _ in range(5000)][-1] == 60


def test_add_does_not_shorten_a_delay_that_the_server_requested() -> None:
    time = FakeTime()
    queue: WorkQueue[str] = WorkQueue("test", clock=lambda: time.now, call_later=time.call_later)
    queue.add("a")
    queue.pop()
    queue.add("a")
    assert queue.retry("a", 7) == 7
    queue.done("a")
    queue.add("a")
    queue.add_after("a", 1)
    queue.add("b")
    assert (queue.pop(), queue.pop()) == ("b", None)
    time.advance_to(6.9)
    queue.add("a")
    assert queue.pop() is None
    time.advance_to(7.1)
    assert (queue.pop(), queue.pop()) == ("a", None)
    queue.done("a")
    queue.add("a")
    assert queue.pop() == "a"
