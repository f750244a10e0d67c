"""The reports of gates, which are pods that cannot be trusted."""

import asyncio
from typing import Any

import pytest

from finetune_api.contracts.endpoint import LONGEST_MESSAGE, EndpointStatus, NameStatus
from finetune_api.v1alpha1.endpoints.names import LONGEST_NAME
from finetune_api.v1alpha1.endpoints.status import MOST_MODELS
from finetune_operator import delays
from finetune_operator.snapshot.scraping.gates import Gate, Gates, parsed
from finetune_operator.snapshot.scraping.http import MAX_REPORT_BYTES
from finetune_operator.types import Key

KEY = ("team", "shared")
GATE = Gate(endpoint="e", pod="p", address="10.0.0.9")


def report(state: str = "Serving", requests: int = 0, **changes: Any) -> bytes:
    name = NameStatus(
        name="a",
        job="a",
        revision="r",
        adapter="d",
        state=state,
        requests=requests,
    )
    values = {"endpoint": "e", "pod": "p", "boot": "1", "names": (name,), **changes}
    return EndpointStatus(**values).model_dump_json(by_alias=True).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        report(pod="another"),
        report(endpoint="another"),
        report().replace(b'"Serving"', b'"Verified by hand"'),
    ],
)
def test_a_report_that_is_not_of_this_pod_does_not_count(text: bytes) -> None:
    assert parsed(text, GATE) is None


def test_the_report_of_the_pod_counts() -> None:
    found = parsed(report(), GATE)
    assert found is not None
    assert found.names[0].state == "Serving"


def test_the_largest_report_fits_into_the_limit() -> None:
    digest = "f" * 64
    names = tuple(
        NameStatus(
            name=f"{number:0{LONGEST_NAME}}",
            job=f"{number:063}",
            revision=digest,
            adapter=digest,
            state="Serving",
            message="\n" * LONGEST_MESSAGE,
            answers=digest,
            boot=digest,
            outcome="Inconclusive",
            distance=1 / 3,
            tolerance=1 / 3,
            smallest_fault=1 / 3,
            different_blocks=2**53,
            requests=2**53,
            prompt_tokens=2**53,
            completion_tokens=2**53,
        )
        for number in range(MOST_MODELS)
    )
    text = report(names=names)
    assert MAX_REPORT_BYTES / 2 < len(text) < MAX_REPORT_BYTES
    assert parsed(text, GATE) is not None


class Rig:
    """Gates whose pods report what the test sets, and a clock."""

    def __init__(self) -> None:
        self.text: bytes | None = report("Proving")
        self.now, self.asked, self.woken = 0.0, 0, 0
        self.event = asyncio.Event()
        self.gates = Gates(fetch=self.fetch, clock=lambda: self.now)

    async def fetch(self, address: str, port: int) -> bytes | None:
        assert (address, port) == ("10.0.0.9", 9401)
        self.asked += 1
        self.event.set()
        if self.text == b"raise":
            raise OSError("broken")
        return self.text

    def changed(self, key: Key, *, urgent: bool) -> None:
        assert (key, urgent) == (KEY, True)
        self.woken += 1

    async def ask(self) -> None:
        """Wait for the next report."""
        self.event.clear()
        self.now += delays.GATE
        await self.event.wait()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "GATE_TICK", 0)


async def test_another_state_wakes_the_endpoint() -> None:
    rig = Rig()
    assert rig.gates.latest(KEY, GATE) is None
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
        assert rig.woken == 1
        rig.text = report("Proving", requests=7)
        await rig.ask()
        assert rig.woken == 1, "counts of requests wake nobody"
        rig.text = report("Serving")
        await rig.ask()
        assert rig.woken == 2
        found = rig.gates.latest(KEY, GATE)
        assert found is not None
        assert found.names[0].state == "Serving"
        for broken in (None, b"raise", b"{}"):
            rig.text = broken
            await rig.ask()
        assert rig.woken == 2
        assert rig.gates.latest(KEY, GATE) == found, "a failed read is no information"
        rig.now += delays.STALE_METRICS
        assert rig.gates.latest(KEY, GATE) is None
    finally:
        task.cancel()


async def test_another_pod_is_asked_anew() -> None:
    rig = Rig()
    rig.gates.latest(KEY, GATE)
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
        assert rig.gates.latest(KEY, GATE) is not None
        other = Gate(endpoint="e", pod="p2", address="10.0.0.9")
        assert rig.gates.latest(KEY, other) is None
        await rig.ask()
        assert rig.gates.latest(KEY, other) is None, "the report names the earlier pod"
        rig.gates.latest(KEY, None)
        asked = rig.asked
        await asyncio.sleep(0.01)
        assert rig.asked == asked, "without a pod nothing is asked"
    finally:
        task.cancel()


class Deliveries(Rig):
    """A gate that gets the lists, or loses them."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.used, self.loses = list[bytes](), 0, False
        self.gates.send = self.send

    async def send(self, address: str, port: int, document: bytes) -> None:
        assert (address, port) == ("10.0.0.9", 9401)
        self.sent.append(document)
        if not self.loses:
            self.used = max(self.used, int(document))
        self.text = report("Serving", sequence=self.used)

    async def rejected(self, address: str, port: int, document: bytes) -> None:
        self.sent.append(document)


async def test_a_list_is_sent_once_before_the_report_is_read() -> None:
    rig = Deliveries()
    rig.gates.offer(KEY, 1, "1")
    rig.gates.latest(KEY, GATE)
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
        assert rig.sent == [b"1"]
        await rig.ask()
        assert rig.sent == [b"1"]
        rig.gates.offer(KEY, 2, "2")
        await rig.ask()
        assert rig.sent == [b"1", b"2"]
    finally:
        task.cancel()


async def test_a_list_that_does_not_arrive_is_sent_again() -> None:
    rig = Deliveries()
    rig.loses = True
    rig.gates.offer(KEY, 1, "1")
    rig.gates.latest(KEY, GATE)
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
        rig.loses = False
        await rig.ask()
        await rig.ask()
        assert rig.sent == [b"1", b"1"]
    finally:
        task.cancel()


async def test_a_list_that_the_gate_rejects_is_not_sent_again() -> None:
    rig = Deliveries()
    rig.loses = True
    rig.gates.offer(KEY, 1, "1")
    rig.gates.latest(KEY, GATE)
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
        rig.text = report("Serving", refused="its number is too low")
        rig.gates.send = rig.rejected
        await rig.ask()
        count = len(rig.sent)
        await rig.ask()
        assert len(rig.sent) == count
    finally:
        task.cancel()


async def test_only_the_first_report_to_this_process_is_awaited() -> None:
    rig = Rig()
    rig.gates.latest(KEY, GATE)
    assert rig.gates.awaits(KEY)
    task = asyncio.create_task(rig.gates.run(changed=rig.changed))
    try:
        await rig.ask()
    finally:
        task.cancel()
    assert not rig.gates.awaits(KEY)
    rig.gates.latest(KEY, Gate(endpoint="e", pod="p2", address="10.0.0.9"))
    assert not rig.gates.awaits(KEY), "another pod has proved nothing yet"


@pytest.mark.parametrize("seconds", [0.0, delays.STALE_METRICS])
def test_a_first_report_that_does_not_come_is_not_awaited_for_long(seconds: float) -> None:
    rig = Rig()
    rig.gates.latest(KEY, GATE)
    rig.now += seconds
    assert rig.gates.awaits(KEY) == (not seconds)


def test_no_report_is_awaited_of_an_endpoint_that_had_no_pod() -> None:
    rig = Rig()
    rig.gates.latest(KEY, None)
    rig.gates.latest(KEY, GATE)
    assert not rig.gates.awaits(KEY)
