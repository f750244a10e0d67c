"""Background scrapes: their pace, their limits, and the values that a reconcile gets."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import virtual_time

from finetune_operator import delays
from finetune_operator.snapshot.scraping.scraper import NAMESPACE_WORKERS, WORKERS, Scraper
from finetune_operator.snapshot.scraping.targets import Target
from finetune_operator.types import Key, PodProgress, Requests
from finetune_operator.workqueue.workqueue import WorkQueue

KEY = ("a", "demo")


def target(pod: str = "p", address: str = "10.0.0.1", kind: Any = "progress") -> Target:
    return Target(kind=kind, pod=pod, uid=pod, build="b", address=address, port=9400)


class Pods:
    """Pods that answer with their step, or as ``answer`` says, and a scraper of them."""

    def __init__(self) -> None:
        self.step: int | None = 1
        self.scrapes: list[tuple[float, str]] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.changed: list[Key] = []
        self.seconds: Callable[[str], float] = lambda address: 0.0
        queue: WorkQueue[Any] = WorkQueue(
            "scrapes", namespace_limit=NAMESPACE_WORKERS, clock=virtual_time.now
        )
        self.scraper = Scraper(queue, fetch=self.fetch, clock=virtual_time.now)

    async def fetch(self, address: str, port: int) -> bytes | None:
        self.scrapes.append((virtual_time.now(), address))
        network = address.rpartition(".")[0]
        for name in (network, "all"):
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
        await asyncio.sleep(self.seconds(address))
        for name in (network, "all"):
            self.running[name] -= 1
        if self.step is None:
            return None
        return f'finetune_pod_info{{uid="p"}} 1\nfinetune_global_step {self.step}\n'.encode()

    def latest(self, *targets: Target, key: Key = KEY) -> list[int | None]:
        values = self.scraper.latest(key, targets)
        return [value.global_step for value in values if isinstance(value, PodProgress)]

    def record(self, key: Key, *, urgent: bool) -> None:
        self.changed.append(key)

    async def during(self, test: Awaitable[None]) -> None:
        running = asyncio.create_task(self.scraper.run(changed=self.record))
        try:
            await test
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


Test = Callable[[Pods], Coroutine[Any, Any, None]]


def scraping(test: Test) -> Callable[[], None]:
    """Run a test in virtual time while the scraper runs."""

    def run() -> None:
        async def main() -> None:
            pods = Pods()
            await pods.during(test(pods))

        virtual_time.run(main())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@scraping
async def test_a_read_does_not_wait_for_a_scrape_and_a_value_wakes_the_job(pods: Pods) -> None:
    assert pods.latest(target()) == []
    await asyncio.sleep(1)
    assert pods.changed == [KEY]
    assert pods.latest(target()) == [1]


@scraping
async def test_only_another_value_wakes_the_job(pods: Pods) -> None:
    pods.latest(target())
    await asyncio.sleep(3 * delays.SCRAPE)
    assert len(pods.changed) == 1
    pods.step = 2
    await asyncio.sleep(delays.SCRAPE)
    assert len(pods.changed) == 2


@scraping
async def test_scrapes_slow_down_after_five_minutes(pods: Pods) -> None:
    pods.latest(target())
    await asyncio.sleep(delays.SLOW_AFTER + 3 * delays.SLOW_SCRAPE)
    times = [time for time, _ in pods.scrapes]
    gaps = [later - time for time, later in itertools.pairwise(times)]
    assert {round(gap) for gap in gaps} == {delays.SCRAPE, delays.SLOW_SCRAPE}
    assert gaps == sorted(gaps)


@scraping
async def test_pods_that_are_due_in_the_same_second_are_scraped_together(pods: Pods) -> None:
    await asyncio.sleep(0.1 * delays.TOGETHER)
    pods.latest(target("p", "10.0.0.1"), key=("a", "one"))
    await asyncio.sleep(0.8 * delays.TOGETHER)
    pods.latest(target("q", "10.0.0.2"), key=("a", "two"))
    await asyncio.sleep(delays.SCRAPE + delays.TOGETHER)
    first, second, *others = pods.scrapes
    assert second[0] - first[0] == pytest.approx(0.8 * delays.TOGETHER)
    assert {address for _, address in others} == {"10.0.0.1", "10.0.0.2"}
    # Clocks are binary fractions.
    assert len({round(time, 6) for time, _ in others}) == 1


@scraping
async def test_after_a_failed_scrape_the_value_is_unknown(pods: Pods) -> None:
    pods.latest(target())
    await asyncio.sleep(1)
    pods.step = None
    await asyncio.sleep(delays.SCRAPE)
    assert pods.latest(target()) == []
    pods.step = 1
    await asyncio.sleep(delays.SCRAPE)
    assert pods.latest(target()) == [1]


@scraping
async def test_a_value_that_cannot_be_replaced_is_unknown_after_some_time(pods: Pods) -> None:
    pods.latest(target())
    await asyncio.sleep(1)
    pods.seconds = lambda address: 1e9
    await asyncio.sleep(delays.STALE_METRICS)
    assert pods.latest(target()) == []


@scraping
async def test_a_value_of_a_replaced_pod_is_not_returned(pods: Pods) -> None:
    pods.latest(target())
    await asyncio.sleep(1)
    pods.seconds = lambda address: 5.0
    assert pods.latest(target("q", "10.0.0.2")) == []
    await asyncio.sleep(2)
    assert pods.latest(target("r", "10.0.0.3")) == []
    await asyncio.sleep(20)
    # The pods q and r answer with the uid of p.
    assert pods.latest(target("r", "10.0.0.3")) == []


@scraping
async def test_a_job_may_wait_for_the_end_of_the_first_scrape_for_a_verification(
    pods: Pods,
) -> None:
    pods.seconds = lambda address: 1.0
    pods.step = None
    assert pods.scraper.verification_due(KEY) == 0
    pods.latest(target("v", kind="verification"))
    assert pods.scraper.verification_due(KEY) == delays.FIRST_VERIFICATION
    await asyncio.sleep(0.5)
    assert pods.scraper.verification_due(KEY) == pytest.approx(delays.FIRST_VERIFICATION - 0.5)
    assert pods.changed == []
    await asyncio.sleep(1)
    assert pods.scraper.verification_due(KEY) == 0
    assert pods.changed == [KEY], "a failed scrape wakes the job, too"
    await asyncio.sleep(3 * delays.SCRAPE)
    assert pods.changed == [KEY]


@scraping
async def test_a_job_does_not_wait_for_a_verification_forever(pods: Pods) -> None:
    pods.seconds = lambda address: 1e9
    pods.latest(target("v", kind="verification"))
    await asyncio.sleep(delays.FIRST_VERIFICATION)
    assert pods.scraper.verification_due(KEY) == 0


@scraping
async def test_a_job_waits_for_no_other_first_scrape(pods: Pods) -> None:
    pods.step = None
    pods.latest(target(), target("l", kind="loaded"))
    assert pods.scraper.verification_due(KEY) == 0
    await asyncio.sleep(3 * delays.SCRAPE)
    assert pods.changed == []


@scraping
async def test_a_forgotten_job_is_not_scraped(pods: Pods) -> None:
    pods.latest(target(), target("v", kind="verification"))
    await asyncio.sleep(1)
    pods.scraper.forget(KEY)
    pods.scrapes.clear()
    await asyncio.sleep(1000)
    assert pods.scrapes == []


@scraping
async def test_slow_pods_of_a_namespace_delay_no_other_namespace(pods: Pods) -> None:
    pods.seconds = lambda address: 2.0 if address.startswith("10.0.1.") else 0.0
    for number in range(200):
        pods.latest(target(f"slow-{number}", f"10.0.1.{number}"), key=("slow", str(number)))
    await asyncio.sleep(1)
    began = virtual_time.now()
    pods.latest(target())
    await asyncio.sleep(0.1)
    assert (began, "10.0.0.1") in pods.scrapes
    assert pods.most["10.0.1"] == NAMESPACE_WORKERS


@scraping
async def test_the_number_of_scrapes_at_once_is_limited(pods: Pods) -> None:
    pods.seconds = lambda address: 2.0
    for number in range(2 * WORKERS):
        pods.latest(target(), key=(f"n{number}", "demo"))
    await asyncio.sleep(1)
    assert pods.most["all"] == WORKERS


async def test_a_defect_does_not_end_the_workers(caplog: pytest.LogCaptureFixture) -> None:
    failed = asyncio.Event()

    async def fetch(address: str, port: int) -> bytes | None:
        failed.set()
        raise RuntimeError

    scraper = Scraper(WorkQueue[Any]("scrapes"), fetch=fetch)
    running = asyncio.create_task(scraper.run(changed=lambda key, *, urgent: None))
    scraper.latest(KEY, [target()])
    await asyncio.wait_for(failed.wait(), 5)
    await asyncio.sleep(0)
    assert not running.done()
    assert "scrape failed with an unexpected error" in caplog.text
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def quiet_for(seconds: float) -> bytes:
    return (
        b'finetune_pod_info{uid="p"} 1\nfinetune_verify_requests 3.0\n'
        + f"finetune_verify_idle_seconds {seconds}\n".encode()
    )


@scraping
async def test_requests_wake_the_job_once_it_may_stop_its_pods(pods: Pods) -> None:
    started = virtual_time.now()

    async def fetch(address: str, port: int) -> bytes:
        return quiet_for(virtual_time.now() - started)

    pods.scraper._fetch = fetch
    idle = replace(target(kind="requests"), idle_after=100)
    pods.scraper.latest(KEY, [idle])
    await asyncio.sleep(99)
    assert pods.changed == []
    (value,) = pods.scraper.latest(KEY, [idle])
    assert isinstance(value, Requests)
    assert value.count == 3
    assert 80 < value.idle_seconds < 100
    await asyncio.sleep(delays.SCRAPE)
    assert pods.changed == [KEY]


@scraping
async def test_the_requests_of_several_pods_are_scraped(pods: Pods) -> None:
    async def fetch(address: str, port: int) -> bytes:
        pods.scrapes.append((virtual_time.now(), address))
        return quiet_for(5).replace(b'"p"', b'"q"' if address.endswith("2") else b'"p"')

    pods.scraper._fetch = fetch
    both = [
        replace(target("p", "10.0.0.1", "requests"), idle_after=100),
        replace(target("q", "10.0.0.2", "requests"), idle_after=100),
    ]
    pods.scraper.latest(KEY, both)
    await asyncio.sleep(1)
    values = [each for each in pods.scraper.latest(KEY, both) if isinstance(each, Requests)]
    assert {value.pod for value in values} == {"p", "q"}
    pods.scraper.latest(KEY, both[:1])
    pods.scrapes.clear()
    await asyncio.sleep(3 * delays.SCRAPE)
    assert {address for _, address in pods.scrapes} == {"10.0.0.1"}
    pods.scraper.forget(KEY)
    pods.scrapes.clear()
    await asyncio.sleep(3 * delays.SCRAPE)
    assert pods.scrapes == []
