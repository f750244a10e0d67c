"""Callers of a shared endpoint that hold its memory, or its places, so that others get none.

``test_shared_endpoint`` has the attacks on what the endpoint answers.
"""

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.security.test_shared_endpoint import held
from tests.support.gate.claim import keyed
from tests.support.gate.gate import Gate, connected, running

pytestmark = pytest.mark.finding(20, "one caller of a shared endpoint keeps it from the others")
BODIES = "finetune_gate.requests.bodies"
STALLED = "finetune_gate.requests.outlet.STALLED_SECONDS"


def port_of(gate: Gate) -> int:
    port = urlsplit(gate.url).port
    assert port is not None
    return port


async def test_the_requests_of_a_caller_leave_room_for_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run for a long time, or wait in the queue, with the longest possible bodies."""
    monkeypatch.setattr(f"{BODIES}.MOST_BYTES", 40_000)
    async with running(tmp_path, "--capacity", "8") as gate:
        await gate.serves(keyed(gate.claim.add("a"), "one"), keyed(gate.claim.add("b"), "two"))
        gate.vllm.interval = 0.005

        async def ask(count: int) -> int:
            fields = {"user": "x" * 4000, "max_tokens": count}
            return (await gate.chat("a", key="one", **fields))[0]

        flood = [asyncio.create_task(ask(400)) for _ in range(12)]
        await gate.has_running(2)
        await asyncio.sleep(0.3)
        assert (await gate.chat("b", key="two", user="x" * 4000))[0] == 200
        assert {*await asyncio.gather(*flood)} == {200, 503}


@pytest.mark.parametrize("key", [None, "unused"])
async def test_callers_without_a_key_of_the_endpoint_have_no_share_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Clients of OpenAI always send a key: all of them may send the same one, or each another."""
    monkeypatch.setattr(f"{BODIES}.MOST_BYTES", 40_000)
    async with running(tmp_path, "--capacity", "8") as gate:
        await gate.serves(gate.claim.add("a"), keyed(gate.claim.add("b"), "two"))
        gate.vllm.interval = 0.005

        async def ask(number: int) -> int:
            fields = {"user": "x" * 4000, "max_tokens": 400}
            own = key if number < 5 else f"unknown-{number}"
            return (await gate.chat("a", key=own, **fields))[0]

        few = [asyncio.create_task(ask(number)) for number in range(5)]
        await gate.has_running(5)
        flood = [asyncio.create_task(ask(number)) for number in range(5, 15)]
        await asyncio.sleep(0.3)
        assert (await gate.chat("b", key="two", user="x" * 4000))[0] == 200
        assert await asyncio.gather(*few) == [200] * 5
        assert {*await asyncio.gather(*flood)} == {200, 503}


async def test_white_space_in_a_body_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{BODIES}.MOST_BYTES", 40_000)
    async with running(tmp_path, "--capacity", "32") as gate:
        await gate.serves(keyed(gate.claim.add("a"), "one"))
        gate.vllm.interval = 0.05
        text = json.dumps({"model": "a", "prompt": "x", "max_tokens": 10})
        found = []

        async def ask() -> None:
            url, data = f"{gate.url}/v1/completions", f"{text}{' ' * 4000}"
            headers = {"Authorization": "Bearer one"}
            async with gate.session.post(url, data=data, headers=headers) as response:
                found.append(response.status)

        tasks = []
        for _ in range(12):
            tasks.append(asyncio.create_task(ask()))
            await gate.has_running(len(tasks))
        await asyncio.gather(*tasks)
        assert found == [200] * 12


async def test_answers_that_nobody_reads_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STALLED, 1.0)
    async with running(tmp_path) as gate:
        await gate.serves(gate.claim.add("a"))
        gate.vllm.answer_bytes = 1 << 20
        body = {"model": "a", "prompt": "x", "max_tokens": 1}
        callers = [connected(gate, body) for _ in range(8)]
        try:
            await gate.reports('finetune_gate_requests_total{model="a",outcome="disconnected"} 8.0')
            await asyncio.sleep(0.1)
            assert held(port_of(gate)) == 0
        finally:
            for caller in callers:
                caller.close()


async def test_the_answers_of_a_caller_leave_room_for_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{BODIES}.MOST_ANSWER_BYTES", 8 << 20)
    async with running(tmp_path) as gate:
        await gate.serves(keyed(gate.claim.add("a"), "one"), keyed(gate.claim.add("b"), "two"))
        gate.vllm.answer_bytes = 1 << 20
        body = {"model": "b", "prompt": "x", "max_tokens": 1}
        callers = [connected(gate, body, key="two") for _ in range(4)]
        try:
            await gate.reports('finetune_gate_requests_total{model="b",outcome="busy"}')
            status, answer = await gate.post("/v1/completions", body, key="two")
            assert status == 503, answer
            status, _ = await gate.post("/v1/completions", {**body, "model": "a"}, key="one")
            assert status == 200
        finally:
            for caller in callers:
                caller.close()


async def test_an_answer_that_is_too_long_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{BODIES}.LONGEST_ANSWER", 4000)
    async with running(tmp_path) as gate:
        await gate.serves(gate.claim.add("a"))
        assert (await gate.chat("a"))[0] == 200
        gate.vllm.answer_bytes = 5000
        status, body = await gate.chat("a")
        assert (status, body["error"]["param"]) == (400, "stream")
        assert "set stream to true" in body["error"]["message"]
        assert len(await gate.stream("a")) == 8


def read(caller: socket.socket, count: int) -> int:
    """Read at most so many bytes of those that have arrived; return their number."""
    caller.setblocking(False)
    try:
        return len(caller.recv(count))
    except BlockingIOError:
        return 0


async def test_a_caller_that_reads_slowly_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never stops for as long as a request may wait, and would need minutes for its answer."""
    monkeypatch.setattr(STALLED, 2.0)
    async with running(tmp_path, "--capacity", "2") as gate:
        await gate.serves(gate.claim.add("a"))
        gate.vllm.event_bytes, gate.vllm.interval = 8 << 10, 0
        gate.vllm.aborted.clear()
        body: dict[str, Any] = {"model": "a", "prompt": "x", "stream": True, "max_tokens": 4000}
        with connected(gate, body, buffer=32 << 10) as caller:
            received, began = 0, time.monotonic()
            while not gate.vllm.aborted:
                assert received < 8 << 20, "it still has its place"
                # 640 KB per second: it would read for 50 seconds.
                await asyncio.sleep(0.05)
                received += read(caller, 32 << 10)
        assert time.monotonic() - began > 2, "it was not aborted for one long pause"


@pytest.mark.parametrize(
    "sent", [b"", b"POST /v1/completions HTTP/1.1\r\nHo"], ids=["no", "half a"]
)
async def test_a_connection_without_a_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("finetune_gate.server.IDLE_SECONDS", 0.3)
    async with running(tmp_path) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gate))
        writer.write(sent)
        try:
            async with asyncio.timeout(20):
                assert await reader.read() == b""
        finally:
            writer.close()
